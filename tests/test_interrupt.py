"""Ctrl-C at any moment: KeyboardInterrupt after the kernel, nothing half written, and the next call as ever."""

import signal

import pytest

from .process import run_python

# The threading layer that is always there, and that minds least what else the machine does.
THREADS = {"NUMBA_NUM_THREADS": "2", "NUMBA_THREADING_LAYER": "workqueue"}

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs the signals of POSIX")

HEAD = """
import os, random, signal, threading
import numpy as np
import numbaconv
from numbaconv.kernels.turn import turn
from tests import parallel
from tests.cases import ALGORITHMS, PASSES, Case
from tests.problem import Problem, assert_same_bits

parallel.always()
"""

# One signal in some hundred calls falls between two bytecodes that matter, so there are many.
MANY = """
problem = Problem.normals(Case("", 4, 8, 16, 16, 8, 3, 3))
runs = [(name, algorithm) for name in PASSES for algorithm in ALGORITHMS]
desired = [problem.run(*run) for run in runs]

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
rng = random.Random(0)
interrupts = 0
for i in range(4000):
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(2e-5, 3e-4))
        for _ in range(100):
            problem.run(*runs[i % len(runs)])
    except KeyboardInterrupt:
        interrupts += 1
    assert turn.free(), "no call would be parallel any more"
for run, result in zip(runs, desired):
    assert_same_bits(problem.run(*run), result)
print(interrupts)
"""


def test_interrupts_at_any_moment():
    assert int(run_python(HEAD + MANY, **THREADS)) > 1000


LONG = """
case = Case("", 8, 32, 56, 56, 32, 3, 3, padding=1)
problem = Problem.integers(case)
for name in PASSES[:3]:
    for algorithm in ALGORITHMS:
        desired = problem.run(name, algorithm)
        out = np.empty_like(desired)
        timer = threading.Timer(0.03, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            while True:  # till it comes
                out.fill(np.nan)
                problem.run(name, algorithm, out=out)
        except KeyboardInterrupt:
            timer.join()
        assert np.isnan(out).all() or np.array_equal(out, desired), "half written"
        assert turn.free()
        assert_same_bits(problem.run(name, algorithm), desired)
"""


def test_interrupt_of_a_long_call():
    run_python(HEAD + LONG, **THREADS)


COMPILING = """
from numba.core.typing import templates

dy = np.ones((1, 2, 6, 6), np.float32)
new_registrations = templates.BaseRegistryLoader.new_registrations
items = 0

def interrupted(self, name):
    \"""Numba asks for the types that it has not installed yet, each of them once; here Ctrl-C comes meanwhile.\"""
    global items
    for item in new_registrations(self, name):
        items += 1
        if items in (100, 400):
            os.kill(os.getpid(), signal.SIGINT)
        yield item

templates.BaseRegistryLoader.new_registrations = interrupted
interrupts = 0
for moment in (0.1, 0.3, 0.5):
    timer = threading.Timer(moment, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        numbaconv.conv2d_bias_grad(dy)
    except KeyboardInterrupt:
        interrupts += 1
    try:
        timer.join()  # if it was too late for this one
    except KeyboardInterrupt:
        timer.join()
    assert turn.free()
assert numbaconv.conv2d_bias_grad(dy).tolist() == [36, 36]
print(items > 400, interrupts)
"""


def test_interrupt_of_a_compilation(tmp_path):
    """The first call of a process, with nothing on disk and with what such a call left there."""
    for _ in range(2):
        out = run_python(HEAD + COMPILING, **THREADS, NUMBA_CACHE_DIR=str(tmp_path)).split()
        assert out[0] == "True"
        assert int(out[1]) >= 1
