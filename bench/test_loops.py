"""Times every pass of every contender: the pytest-benchmark side of `python -m bench.loops`."""

from __future__ import annotations

import numpy as np
import pytest

from bench.contenders import PASSES, make_contenders

CONTENDERS = make_contenders()
PYTHON = next(iter(CONTENDERS))


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    """Results of the plain Python loops."""
    return {name: run() for name, run in CONTENDERS[PYTHON].items()}


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("name", PASSES)
def test_pass(benchmark, expected, name, contender):
    run = CONTENDERS[contender].get(name)
    if run is None:
        pytest.skip(f"{contender} has no {name}")
    result = run()  # compiles too, outside the timing
    assert result.dtype == expected[name].dtype
    np.testing.assert_array_equal(result, expected[name])
    benchmark.group = name
    benchmark.extra_info.update(contender=contender)
    benchmark(run)
