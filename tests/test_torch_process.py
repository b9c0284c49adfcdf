"""In one process with PyTorch: its arrays, its OpenMP pool, and the workers of its DataLoader."""

import numpy as np
import pytest

from .cases import COMMON, each_layout, each_pass_and_algorithm
from .problem import Problem, assert_same_bits
from .process import run_python

torch = pytest.importorskip("torch")


@each_pass_and_algorithm
@each_layout
@pytest.mark.parametrize("exchange", (np.from_dlpack, torch.Tensor.numpy), ids=("from_dlpack", "numpy"))
def test_arrays_of_tensors(algorithm, exchange, layout, name):
    """Memory of PyTorch's is read in place, permuted tensors too, and not written to."""
    problem = Problem.normals(COMMON, layout=layout)
    desired = problem.run(name, algorithm)
    tensors = []

    def share(array):
        tensor = torch.tensor(array)
        tensors.append(tensor if tensor.ndim == 1 else tensor.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1))
        return exchange(tensors[-1])

    result = problem.map(share).run(name, algorithm)
    assert_same_bits(result, desired)
    for tensor, array in zip(tensors, (problem.x, problem.weight, problem.bias, problem.dy), strict=True):
        assert_same_bits(tensor.contiguous().numpy(), array)


@each_pass_and_algorithm
def test_out_in_a_tensor(algorithm, name):
    problem = Problem.normals(COMMON)
    desired = problem.run(name, algorithm)
    tensor = torch.full(desired.shape, torch.nan)
    problem.run(name, algorithm, out=np.from_dlpack(tensor))
    assert_same_bits(tensor.numpy(), desired)


def test_tensor_is_refused():
    """Only ndarrays are arrays; the error names the way."""
    problem = Problem.normals(COMMON)
    with pytest.raises(TypeError, match=r"x must be a numpy.ndarray, got Tensor; .*np\.asarray"):
        problem.map(torch.tensor).run("conv2d", None)


WORKERS = """
import warnings
import torch
from tests import parallel
from tests.steps import Digests, train

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork beside threads
parallel.always()
image = torch.ones(4, 16, 60, 60, requires_grad=True)
torch.nn.functional.conv2d(image, torch.ones(16, 16, 3, 3)).sum().backward()  # PyTorch's pool is the first
alone = train(10)
for method in ("fork", "spawn", "forkserver"):
    data = torch.utils.data.DataLoader(
        Digests(), batch_size=None, num_workers=2, multiprocessing_context=method, timeout=240
    )
    assert list(data) == [alone] * 4, method
    torch.nn.functional.conv2d(image, torch.ones(16, 16, 3, 3)).sum().backward()
    assert train(10) == alone, method
"""


@pytest.mark.parametrize("layer", ("workqueue", "omp"))
def test_workers_of_a_data_loader(layer):
    """After parallel calls in the parent, by PyTorch first."""
    run_python(WORKERS, NUMBA_NUM_THREADS="2", NUMBA_THREADING_LAYER=layer)
