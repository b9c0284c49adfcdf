"""The same bits from run to run, for any number of threads, and for an image alone or in a batch."""

from dataclasses import replace

import numpy as np
import pytest

from .cases import (
    ALGORITHMS,
    COMMON,
    LIGHT_BLOCKS,
    PADDED,
    SHAPES,
    Case,
    each_algorithm,
    each_dtype,
    each_layout,
    each_pass_and_algorithm,
)
from .problem import Problem, assert_same_bits
from .process import run_python

# Sizes at which a reduction could be shared out: long in depth, in pixels, in images, with few results each.
REDUCTIONS = (
    COMMON,
    Case("one_filter", 1, 1, 70, 71, 1, 3, 3, padding=1),
    Case("deep", 1, 257, 5, 5, 2, 3, 3, padding=1),
    Case("many_images", 33, 2, 9, 9, 3, 3, 3, padding=1),
    Case("strided", 3, 5, 33, 35, 7, 3, 3, stride=2, padding=1),
    Case("one_map", 1, 1, 200, 190, 5, 3, 3, stride=2, padding=1),
)
each_case = pytest.mark.parametrize("case", REDUCTIONS + LIGHT_BLOCKS, ids=str)


def skip_unless_supported(case, algorithm):
    if not case.supports(algorithm):
        pytest.skip(f"{algorithm} does not do this case")


@each_pass_and_algorithm
@each_dtype
@each_layout
@each_case
def test_threads(algorithm, case, layout, dtype, name, set_threads, every_call_parallel):
    skip_unless_supported(case, algorithm)
    problem = Problem.normals(case, dtype, layout)
    set_threads(1)
    alone = problem.run(name, algorithm)
    set_threads(2)
    for _ in range(2):
        assert_same_bits(problem.run(name, algorithm), alone)


# Chunks of pixels that end inside of an image, blocks of channels, each kind of kernel.
BATCHES = (
    COMMON,
    Case("batch_of_19", 19, 3, 6, 5, 7, 3, 3, padding=1),
    Case("batch_deep", 4, 300, 5, 6, 9, 3, 3, padding=1),
    Case("batch_pointwise", 6, 33, 9, 7, 17, 1, 1),
    Case("batch_strided", 4, 5, 17, 19, 7, 3, 3, stride=2, padding=1),
    Case("batch_wide", 3, 3, 5, 300, 6, 3, 3, padding=1),
    Case("batch_deep_pointwise", 7, 600, 3, 3, 32, 1, 1),
    Case("batch_of_two_blocks", 3, 495, 3, 3, 500, 1, 1),
    Case("batch_small_maps", 5, 130, 5, 4, 24, 3, 3, padding=1),
    Case("batch_mostly_padding", 3, 100, 4, 3, 64, 5, 5, stride=2, padding=2),
    Case("batch_depthwise", 5, 19, 9, 10, 19, 3, 3, padding=1, groups=19),
    *PADDED,
)


@pytest.mark.parametrize("name", ("conv2d", "conv2d_input_grad"))
@each_dtype
@each_layout
@pytest.mark.parametrize("case", BATCHES, ids=str)
@each_algorithm
def test_image_alone_or_in_a_batch(algorithm, case, layout, dtype, name):
    """Also in one where all other images are NaN."""
    skip_unless_supported(case, algorithm)
    problem = Problem.normals(case, dtype, layout)
    axis = layout.index("N")
    batch = problem.run(name, algorithm)

    def part(images):
        return replace(problem, x=np.take(problem.x, images, axis), dy=np.take(problem.dy, images, axis))

    for count in (1, 2):
        for first in range(0, case.N - count + 1, count):
            images = [first + i for i in range(count)]
            assert_same_bits(part(images).run(name, algorithm), np.take(batch, images, axis))
    for image in {0, case.N // 2, case.N - 1}:
        others = np.ones(case.N, bool)
        others[image] = False
        others = np.expand_dims(others, [i for i in range(4) if i != axis])
        beside = replace(problem, x=np.where(others, np.nan, problem.x), dy=np.where(others, np.nan, problem.dy))
        result = beside.map(lambda array: array.astype(dtype)).run(name, algorithm)
        assert_same_bits(np.take(result, image, axis), np.take(batch, image, axis))


@pytest.mark.parametrize("name", ("conv2d", "conv2d_input_grad"))
@each_layout
def test_images_that_lie_apart(layout, name):
    """One image is a run of pixels, two with others between them are none: the sums of many channels are cut alike."""
    C, F = (1500, 48) if name == "conv2d" else (48, 1500)
    problem = Problem.normals(Case("apart", 3, C, 8, 24, F, 1, 1), np.float32, layout)
    axis = layout.index("N")

    def part(images):
        place = tuple(images if i == axis else slice(None) for i in range(4))
        return replace(problem, x=problem.x[place], dy=problem.dy[place]).run(name, "direct")

    assert_same_bits(np.take(part(slice(0, 3, 2)), [0], axis), part(slice(0, 1)))


DIGESTS = """
import hashlib, numba
import numpy as np
from tests import parallel
from tests.cases import ALGORITHMS, LAYOUTS, PASSES
from tests.problem import Problem
from tests.test_determinism import BATCHES, REDUCTIONS

parallel.always()
digest = hashlib.sha256()
for case in REDUCTIONS + BATCHES:
    for dtype, layout in ((np.float32, "NCHW"), (np.float64, "NHWC"), (np.float32, "HWCN")):
        problem = Problem.normals(case, dtype, layout)
        for name in PASSES:
            for algorithm in ALGORITHMS:
                if case.supports(algorithm):
                    digest.update(problem.run(name, algorithm).tobytes())
print(numba.get_num_threads(), digest.hexdigest())
"""


@pytest.mark.slow
def test_processes_with_different_numbers_of_threads():
    """More threads than results, than images, and than cores."""
    lines = [run_python(DIGESTS, NUMBA_NUM_THREADS=str(count)).split() for count in (1, 2, 3, 7, 16)]
    assert [int(count) for count, _ in lines] == [1, 2, 3, 7, 16]
    assert len({digest for _, digest in lines}) == 1


def test_repeated_calls():
    """With other calls between them."""
    problems = [Problem.normals(case) for case in SHAPES[:12]]
    first = [problem.run("conv2d_weight_grad", ALGORITHMS[0]) for problem in problems]
    for _ in range(3):
        for problem, desired in zip(problems, first, strict=True):
            assert_same_bits(problem.run("conv2d_weight_grad", ALGORITHMS[0]), desired)
