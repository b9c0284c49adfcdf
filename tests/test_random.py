"""Problems that nobody chose: all four passes exact on integers, against the tap oracle."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import numbaconv

from .cases import DTYPES, EXACT_ALGORITHMS, LAYOUTS, PASSES, Case
from .problem import Problem, assert_exact


@st.composite
def one_axis(draw, rule):
    """(extent, taps, stride, dilation, pads) of one axis, with at least one output."""
    taps, stride, dilation = (draw(st.integers(1, largest)) for largest in (4, 4, 3))
    if rule in ("same", "same_lower"):
        return draw(st.integers(1, 12) | st.integers(60, 130)), taps, stride, dilation, None
    pads = (0, 0) if rule == "valid" else (draw(st.integers(0, 4)), draw(st.integers(0, 4)))
    smallest = max(0, dilation * (taps - 1) + 1 - sum(pads))
    # A few more pixels, or more than a block of them.
    return smallest + draw(st.integers(0, 10) | st.integers(60, 130)), taps, stride, dilation, pads


@st.composite
def cases(draw):
    rule = draw(st.sampled_from(("sides", "valid", "same", "same_lower")))
    H, KH, vertical_stride, vertical_dilation, vertical = draw(one_axis(rule))
    W, KW, horizontal_stride, horizontal_dilation, horizontal = draw(one_axis(rule))
    groups = draw(st.integers(1, 3))
    return Case(
        "",
        N=draw(st.integers(0, 3)),
        C=groups * draw(st.integers(0, 3) | st.integers(4, 20)),
        H=H,
        W=W,
        F=groups * draw(st.integers(1, 4) | st.integers(5, 20)),
        KH=KH,
        KW=KW,
        stride=(vertical_stride, horizontal_stride),
        padding=(vertical, horizontal) if rule == "sides" else rule,
        dilation=(vertical_dilation, horizontal_dilation),
        groups=groups,
    )


problems = st.builds(
    Problem.integers,
    cases(),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    flip=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
algorithms = st.sampled_from(EXACT_ALGORITHMS)


@settings(max_examples=300)
@given(problem=problems, algorithm=algorithms)
def test_passes_equal_oracle(problem, algorithm):
    for name in PASSES:
        expected = problem.expected(name)
        out = np.full(expected.shape, np.nan, problem.x.dtype)
        assert_exact(problem.run(name, algorithm), expected, problem.x.dtype)
        assert_exact(problem.run(name, algorithm, out=out), expected, problem.x.dtype)


@settings(max_examples=100)
@given(problem=problems, algorithm=algorithms, data=st.data())
def test_accumulated_twice(problem, algorithm, data):
    """Onto what `out` holds, and then once more with another image order: sums do not depend on it."""
    problem = problem.map(lambda array: array // 2)  # room for twice the sum
    order = data.draw(st.permutations(range(problem.case.N)))
    axis = problem.layout.index("N")
    shuffled = Problem(
        problem.case,
        problem.layout,
        problem.flip,
        np.take(problem.x, order, axis),
        problem.weight,
        problem.bias,
        np.take(problem.dy, order, axis),
    )
    for name in PASSES[2:]:
        out = problem.run(name, algorithm)
        shuffled.run(name, algorithm, out=out, accumulate=True)
        assert_exact(out, 2 * problem.expected(name), problem.x.dtype)


@settings(max_examples=100)
@given(problem=problems, algorithm=algorithms)
def test_linear_in_each_operand(problem, algorithm):
    """conv(2 x) = 2 conv(x), and the same for the weight, to the last bit."""
    options = problem.options("conv2d") | {"algorithm": algorithm}
    y = numbaconv.conv2d(problem.x, problem.weight, **options)
    assert_exact(numbaconv.conv2d(2 * problem.x, problem.weight, **options), 2 * y, y.dtype)
    assert_exact(numbaconv.conv2d(problem.x, -4 * problem.weight, **options), -4 * y, y.dtype)
