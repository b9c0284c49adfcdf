"""What memory held before does not matter: neither that of scratch nor that of new results."""

import numpy as np
import pytest

from .cases import ALGORITHMS, CASES, LIGHT_BLOCKS, MEMORY, PASSES, each_layout
from .problem import Problem, assert_same_bits

real_empty = np.empty


def empty_of(byte):
    """`np.empty` of memory that holds this byte: 0xff is NaN in floats, and -1 in integers."""

    def empty(*args, **keywords):
        array = real_empty(*args, **keywords)
        array.reshape(-1).view(np.uint8).fill(byte)
        return array

    return empty


def check(problem, patch):
    """The same bits in scratch and results of zeros and of NaN; the loops have no scratch."""
    for algorithm in ALGORITHMS:
        if algorithm == "loops" or not problem.case.supports(algorithm):
            continue
        for name in PASSES:
            results = [problem.run(name, algorithm)]  # compiled before NumPy is another
            for byte in (0x00, 0xFF):
                with patch.context() as patched:
                    patched.setattr(np, "empty", empty_of(byte))
                    results.append(problem.run(name, algorithm))
            assert np.isfinite(results[0]).all()
            for result in results[1:]:
                assert_same_bits(result, results[0])


@each_layout
@pytest.mark.parametrize("case", CASES + LIGHT_BLOCKS, ids=str)
def test_same_bits_in_any_memory(case, layout, monkeypatch):
    check(Problem.normals(case, np.float32, layout), monkeypatch)


@each_layout
@pytest.mark.parametrize("case", MEMORY, ids=str)
def test_same_bits_in_any_memory_of_workers(case, layout, monkeypatch, every_call_parallel):
    """The scratch of each, and what they share; in float64."""
    check(Problem.normals(case, np.float64, layout, flip=True), monkeypatch)


def test_the_garbage_arrives():
    """So that the tests above mean something."""
    assert np.isnan(empty_of(0xFF)((2, 3), np.float32)).all()
    assert (empty_of(0xFF)(5, np.uint8) == 255).all()
