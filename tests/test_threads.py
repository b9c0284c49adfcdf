"""Calls from several Python threads at once, and from a forked child: the bits of a call alone, and no abort."""

import os

import pytest

from tests.process import run_python

CODE = """
import os, threading
import numpy as np
import numbaconv as nc
rng = np.random.default_rng(0)
jobs = []
for C, F, H, K, algorithm in ((16, 32, 40, 3, "direct"), (3, 8, 20, 3, "loops"), (64, 64, 20, 1, "direct")):
    x, w = rng.normal(size=(2, C, H, H)).astype("f"), rng.normal(size=(F, C, K, K)).astype("f")
    jobs.append((x, w, algorithm))

def work(results):
    for _ in range(10):
        for x, w, algorithm in jobs:
            results.append(nc.conv2d(x, w, algorithm=algorithm).tobytes())

results = [[] for _ in range(8)]
threads = [threading.Thread(target=work, args=(each,)) for each in results]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
alone = []
work(alone)
assert all(each == alone for each in results), "other bits than alone"
"""

FORK = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork beside threads
child = os.fork()
if child == 0:
    again = []
    work(again)
    os._exit(0 if again == alone else 1)
assert os.waitpid(child, 0)[1] == 0, "the forked child was killed, or had other bits"
"""

LAYERS = ("workqueue", "omp")


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_concurrent_calls(layer):
    """Also as the first calls of all, with nothing compiled or loaded yet."""
    run_python(CODE, NUMBA_NUM_THREADS="2", NUMBA_THREADING_LAYER=layer)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("layer", LAYERS)
def test_forked_child(layer):
    """After parallel calls in the parent."""
    run_python(CODE + FORK, NUMBA_NUM_THREADS="2", NUMBA_THREADING_LAYER=layer)
