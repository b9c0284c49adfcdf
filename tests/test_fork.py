"""Child processes of every kind after parallel calls in the parent: right, and neither hung nor killed."""

import os

import pytest

from .process import run_python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

# Python 3.12 warns of any fork beside threads. An alarm ends a child that hangs.
HEAD = """
import multiprocessing, os, signal, threading, time, warnings
import numba
import numpy as np
import numbaconv
from tests import parallel
from tests.steps import train

warnings.simplefilter("ignore", DeprecationWarning)
parallel.always()

def in_child(work):
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(240)
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    status = os.waitpid(child, 0)[1]
    assert status == 0, f"child ended with status {status}: 1, 2 other bits or an error, 14 a hang, 15 killed"
"""

CHILDREN = """
from numba import njit, prange

@njit(parallel=True)
def of_somebody_else(n):
    total = 0
    for i in prange(n):
        total += i
    return total

of_somebody_else(1000)  # the pool is started by other code, and by this library only later
in_child(lambda: train(5))
alone = train(10)
for _ in range(3):
    in_child(lambda: train(10) == alone)
in_child(lambda: in_child(lambda: train(10) == alone) is None)
assert train(10) == alone, "other bits after the forks"
for method in multiprocessing.get_all_start_methods():
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map_async(train, [10] * 4, 1).get(200) == [alone] * 4, method
assert train(10) == alone
"""


@pytest.mark.parametrize("layer", ("workqueue", "omp"))
def test_children(layer):
    """fork, fork in a fork, and pools that fork, spawn and have a server; then the parent again."""
    run_python(HEAD + CHILDREN, NUMBA_NUM_THREADS="2", NUMBA_THREADING_LAYER=layer)


BESIDE_CALLS = """
calling = True

def call():
    while calling:
        numbaconv.conv2d(x, weight, algorithm="loops")
        for _ in range(20):
            numba.get_num_threads()

x, weight = np.ones((1, 2, 6, 6), np.float32), np.ones((2, 2, 3, 3), np.float32)
numbaconv.conv2d(x, weight, algorithm="loops")
threads = [threading.Thread(target=call) for _ in range(3)]
for thread in threads:
    thread.start()
try:
    for _ in range(60):
        in_child(lambda: (numbaconv.conv2d(x, weight, algorithm="loops") == 18).all())
        time.sleep(0.002)
finally:
    calling = False
"""


def test_fork_beside_threads_that_call():
    """A lock of Numba's that another thread holds at that moment stays locked in the child."""
    run_python(HEAD + BESIDE_CALLS, NUMBA_NUM_THREADS="2")


BESIDE_COMPILATION = """
dy = np.ones((1, 2, 6, 6), np.float32)
thread = threading.Thread(target=numbaconv.conv2d_bias_grad, args=(dy,))
thread.start()
for _ in range(4):
    time.sleep(0.1)
    in_child(lambda: numbaconv.conv2d_bias_grad(dy).tolist() == [36, 36])
thread.join()
"""


def test_fork_beside_a_thread_that_compiles(tmp_path):
    """The same with the lock of Numba's compiler."""
    run_python(HEAD + BESIDE_COMPILATION, NUMBA_NUM_THREADS="2", NUMBA_CACHE_DIR=str(tmp_path))
