"""Against PyTorch, in float64 on integer data, where both are exact; only where it is installed."""

import numpy as np
import pytest

import numbaconv
from numbaconv import Conv2D

from .cases import COMMON, SHAPES, Case, each_exact_algorithm, each_layout
from .oracle import Taps, from_nchw, to_nchw
from .problem import Problem, assert_exact, assert_same_bits

torch = pytest.importorskip("torch")


def in_torch(problem):
    """y, dx, dw and db from PyTorch's autograd; it knows neither layouts, nor flip, nor uneven padding."""
    case, layout = problem.case, problem.layout
    taps = Taps((case.H, case.W), (case.KH, case.KW), case.stride, case.padding, case.dilation)
    (top, bottom), (left, right) = taps.pads
    x = torch.tensor(to_nchw(problem.x, layout).copy(), dtype=torch.float64, requires_grad=True)
    weight = torch.tensor(problem.weight, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(problem.bias, dtype=torch.float64, requires_grad=True)
    y = torch.nn.functional.conv2d(
        torch.nn.functional.pad(x, (left, right, top, bottom)),
        weight.flip((2, 3)) if problem.flip else weight,
        bias,
        stride=taps.stride,
        dilation=taps.dilation,
        groups=case.groups,
    )
    y.backward(torch.tensor(to_nchw(problem.dy, layout).copy(), dtype=torch.float64))
    return (
        from_nchw(y.detach().numpy(), layout),
        from_nchw(x.grad.numpy(), layout),
        weight.grad.numpy(),
        bias.grad.numpy(),
    )


@pytest.mark.parametrize("flip", (False, True), ids=("correlate", "flip"))
@each_layout
@pytest.mark.parametrize("case", SHAPES, ids=str)
@each_exact_algorithm
def test_passes(algorithm, case, layout, flip):
    problem = Problem.integers(case, np.float32, layout, flip)
    y, dx, dw, db = in_torch(problem)
    assert_exact(problem.run("conv2d", algorithm), y, np.float32)
    assert_exact(problem.run("conv2d_input_grad", algorithm), dx, np.float32)
    assert_exact(problem.run("conv2d_weight_grad", algorithm), dw, np.float32)
    assert_exact(problem.run("conv2d_bias_grad", algorithm), db, np.float32)


@pytest.mark.parametrize("dilation", (1, 2))
@pytest.mark.parametrize("kernel", ((3, 3), (2, 5), (4, 1)), ids=str)
# PyTorch warns that an even kernel may make it copy the input.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_same_at_stride_1(kernel, dilation):
    problem = Problem.integers(Case("", 2, 3, 9, 10, 4, *kernel, padding="same", dilation=dilation))
    x, weight, bias = (torch.from_numpy(a.astype(np.float64)) for a in (problem.x, problem.weight, problem.bias))
    y = torch.nn.functional.conv2d(x, weight, bias, padding="same", dilation=dilation)
    assert_exact(problem.run("conv2d", None), y.numpy(), np.float32)


@pytest.mark.parametrize("bias", (True, False))
def test_state_dict_goes_both_ways(bias):
    """Names, shapes and meaning are PyTorch's: the same parameters give the same outputs."""
    options = {"stride": 2, "padding": 1, "groups": 2, "bias": bias}
    theirs = torch.nn.Conv2d(4, 6, (3, 2), dtype=torch.float64, **options)
    ours = Conv2D(4, 6, (3, 2), dtype=np.float64, **options)
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    assert {name: value.shape for name, value in ours.state_dict().items()} == {
        name: value.shape for name, value in state.items()
    }
    ours.load_state_dict(state)
    other = torch.nn.Conv2d(4, 6, (3, 2), dtype=torch.float64, **options)
    other.load_state_dict({name: torch.from_numpy(value) for name, value in ours.state_dict().items()})
    x = torch.randn(2, 4, 7, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(x).numpy()
        assert_same_bits(other(x).numpy(), expected)
    assert np.allclose(ours(x.numpy()), expected, rtol=0, atol=1e-14)


def test_initial_distribution():
    """Both are uniform between the same bounds: the quantiles of many draws agree."""
    theirs = torch.nn.Conv2d(12, 600, 3, groups=3)
    ours = Conv2D(12, 600, 3, groups=3, rng=0)
    quantiles = np.linspace(0, 1, 11)
    for name in ("weight", "bias"):
        a, b = getattr(ours, name), getattr(theirs, name).detach().numpy()
        bound = 1 / np.sqrt(4 * 9)
        spread = 5 * bound / np.sqrt(a.size)  # of the quantiles, five standard errors or more
        assert np.abs(np.quantile(a, quantiles) - np.quantile(b, quantiles)).max() < 2 * spread


def test_tensors_are_refused():
    """With the hint how to pass one; np.from_dlpack and Tensor.numpy() give arrays that are read in place."""
    problem = Problem.normals(COMMON)
    for argument in ("x", "weight"):
        arguments = problem.arguments("conv2d")
        arguments[argument] = torch.from_numpy(arguments[argument])
        with pytest.raises(TypeError, match=rf"\b{argument}\b.*Tensor.*np\.asarray"):
            numbaconv.conv2d(**arguments, **problem.options("conv2d"))


@pytest.mark.parametrize(
    "convert", (np.from_dlpack, np.asarray, torch.Tensor.numpy), ids=("dlpack", "asarray", "numpy")
)
def test_memory_of_tensors(convert):
    problem = Problem.normals(COMMON)
    tensors = problem.map(lambda array: convert(torch.from_numpy(array.copy())))
    channels_last = problem.map(
        lambda array: (
            convert(torch.from_numpy(array.copy()).to(memory_format=torch.channels_last)) if array.ndim == 4 else array
        )
    )
    for name in ("conv2d", "conv2d_input_grad", "conv2d_weight_grad", "conv2d_bias_grad"):
        desired = problem.run(name, None)
        assert_same_bits(tensors.run(name, None), desired)
        assert_same_bits(channels_last.run(name, None), desired)
