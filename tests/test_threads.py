"""Calls from several Python threads at once: the bits of a call alone, and no abort."""

import pytest

from .process import run_python

TRAINING = """
import threading
import numba
from tests import parallel
from tests.steps import LARGE, LAYERS, train

parallel.always()
layers = LAYERS + LARGE
found = [None] * 8

def work(i):
    found[i] = train(60, layers)

threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert found == [train(60, layers)] * 8, "other bits than alone"
print(numba.threading_layer())
"""

LAYERS = ("workqueue", "omp", "default")


@pytest.mark.parametrize("layer", LAYERS)
def test_training_in_threads(layer):
    """Sixty steps of mixed layers in each of eight threads, whose first calls are the first of all."""
    used = run_python(TRAINING, NUMBA_NUM_THREADS="3", NUMBA_THREADING_LAYER=layer).strip()
    assert used in ((layer,) if layer != "default" else ("tbb", "omp", "workqueue"))


FIRST_CALLS = """
import threading
from numbaconv.kernels import launch
from tests import parallel
from tests.cases import COMMON
from tests.problem import Problem

compiled = []

class Counted(launch.CFunc):
    def compile(self):
        compiled.append((self.__name__, str(self._sig)))
        super().compile()

launch.CFunc = Counted
parallel.always()
problem = Problem.normals(COMMON)
names = ("conv2d", "conv2d_bias_grad")
found = [{} for _ in range(8)]
barrier = threading.Barrier(8)

def work(i):
    barrier.wait()
    for name in names[:: 1 if i % 2 else -1]:
        found[i][name] = problem.run(name, "direct").tobytes()

threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert found == [{name: problem.run(name, "direct").tobytes() for name in names}] * 8, "other bits than alone"
assert sorted(set(compiled)) == sorted(compiled), compiled
print(len(compiled))
"""


def test_first_calls_of_all_compile_once(tmp_path):
    """Nothing is on disk, and no kernel is compiled in two threads: that of y and that of db."""
    environment = {"NUMBA_NUM_THREADS": "3", "NUMBA_THREADING_LAYER": "workqueue", "NUMBA_CACHE_DIR": str(tmp_path)}
    assert int(run_python(FIRST_CALLS, **environment)) == 2
