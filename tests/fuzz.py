"""Random problems, each told by one line from which it can be run again.

    python -m tests.fuzz --count 10000
    python -m tests.fuzz --case 'N=2 C=3 ...'

Each case is checked on integers, exactly, in all passes and exact algorithms; on NaN and infinity; by the adjoint
identity; on normal numbers by the bounds of the contract, and "auto" by the bits of one of the others; in some kind of
memory, on some number of threads. Every third case is large: in turn they cross each size at which a kernel cuts its
work.
"""

import argparse
import math
import random
import secrets
import shlex
import sys
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace

import numba
import numpy as np

from . import arrays, oracle, parallel
from .cases import ALGORITHMS, EXACT_ALGORITHMS, LAYOUTS, PASSES, Case
from .problem import UNIT_ROUNDOFF, Problem, assert_exact

SMALL, LARGE = 400_000, 6_000_000  # products of a pass, at most
# Results, or draws of fewer of them, whose errors together are compared.
MANY, DRAWS = 500, 8
# Past pixels of a chunk, channels or filters of a panel, blocks of filters, of channels, of images, rows of planes.
KINDS = ("pixels", "depth", "depth_of_dx", "filters", "channels", "images", "planes")
MEMORY = ("contiguous", *(variant.__name__ for variant in arrays.VARIANTS))


@dataclass(frozen=True)
class Spec:
    """One random problem; its line has the fields in this order."""

    N: int
    C: int
    H: int
    W: int
    F: int
    KH: int
    KW: int
    stride: tuple
    padding: tuple  # top, bottom, left, right
    dilation: tuple
    groups: int
    layout: str
    dtype: str
    flip: int
    memory: str
    special: int  # NaN and infinity in x and dy
    parallel: int
    threads: int
    seed: int

    def __str__(self):
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return " ".join(
            f"{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}" for name, value in values
        )

    @classmethod
    def parse(cls, line):
        """The problem of a line; ArgumentTypeError if it is none."""
        try:
            given = dict(part.split("=", 1) for part in line.split())
            kinds = {field.name: field.type for field in fields(cls)}
            spec = cls(
                **{
                    name: tuple(map(int, text.split(","))) if kinds[name] is tuple else kinds[name](text)
                    for name, text in given.items()
                }
            )
            named = spec.layout in LAYOUTS and spec.memory in MEMORY and spec.dtype in ("float32", "float64")
            if not named or (len(spec.stride), len(spec.dilation), len(spec.padding)) != (2, 2, 4):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise argparse.ArgumentTypeError(f"no case: {line!r}; it has the form of {draw(0, 0)}") from None
        return spec

    @property
    def case(self):
        extents = (self.N, self.C, self.H, self.W, self.F, self.KH, self.KW)
        padding = (self.padding[:2], self.padding[2:])
        return Case(str(self), *extents, self.stride, padding, self.dilation, self.groups)


# -- drawing -----------------------------------------------------------------------------------------


def draw(seed, index):
    """Case `index` of a run with this seed."""
    rng = random.Random(f"{seed} {index}")
    kind = KINDS[index // 3 % len(KINDS)] if index % 3 == 2 else None
    while True:
        spec = _draw(rng, kind)
        case = spec.case
        # A dilated kernel need not fit, and a case must not take seconds.
        fits = min(case.outputs) >= 1 and case.products <= (LARGE if kind else SMALL)
        if fits and _is_of(kind, spec):
            return spec


def _draw(rng, kind):
    def extent(*ranges):
        return rng.randint(*rng.choice(ranges))

    plain = rng.random() < 0.4  # a kernel that every algorithm does
    KH, KW = extent((1, 3), (1, 5)), extent((1, 3), (1, 5))
    if plain:
        KH = KW = rng.choice((3, 3, 3, 4, 5))
    if not plain and rng.random() < 0.05:
        KH, KW = rng.randint(6, 11), rng.randint(6, 11)
    stride = (1, 1) if plain or rng.random() < 0.3 else (rng.randint(1, 4), rng.randint(1, 4))
    dilation = (1, 1) if rng.random() < (0.8 if plain else 0.5) else (rng.randint(1, 3), rng.randint(1, 3))
    padding = tuple(rng.choice((0, 0, 1, 2, rng.randint(0, 5))) for _ in range(4))
    reach = [(taps - 1) * step + 1 for taps, step in zip((KH, KW), dilation, strict=True)]
    H = max(0, reach[0] - sum(padding[:2])) + extent((0, 8), (0, 30))
    W = max(0, reach[1] - sum(padding[2:])) + extent((0, 8), (0, 40))
    N = extent((1, 3), (0, 20))
    groups = rng.choice((1, 1, 1, 2, 3, 4))
    C, F = (extent((1, 8), (1, 40)) for _ in range(2))
    if rng.random() < 0.02:
        C = 0
    if kind in ("pixels", "depth", "depth_of_dx"):
        H, W = rng.choice(((H, rng.randint(250, 700)), (rng.randint(17, 45), rng.randint(17, 45))))
    if kind == "depth":
        C, F = rng.randint(1 + 600 // (KH * KW), 1200 // (KH * KW) + 2), rng.randint(1, 9)
    elif kind == "depth_of_dx":
        C, F = rng.randint(1, 9), rng.randint(1 + 600 // (KH * KW), 1200 // (KH * KW) + 2)
    elif kind == "filters":
        C, F = rng.choice((rng.randint(1, 8), C)), rng.randint(257, 400)
    elif kind == "channels":
        C, F = rng.randint(257, 400), rng.choice((rng.randint(1, 8), F))
    elif kind == "images":
        N = rng.randint(30, 90)
    if kind == "planes" or (kind is None and rng.random() < 0.15):
        groups, C, F = extent((1, 40), (4, 20)), 1, 1  # depthwise
    if kind == "planes":
        H, W = rng.randint(30, 60), rng.randint(150, 250)
    return Spec(
        *(N, groups * C, H, W, groups * F, KH, KW, stride, padding, dilation, groups),
        layout=rng.choice(LAYOUTS),
        dtype=rng.choice(("float32", "float32", "float64")),
        flip=rng.randint(0, 1),
        memory=rng.choice(("contiguous", rng.choice(MEMORY))),
        special=int(rng.random() < 0.25),
        parallel=rng.randint(0, 1),
        threads=rng.randint(1, 8),
        seed=rng.getrandbits(32),
    )


def _is_of(kind, spec):
    """Whether there is enough of it to cross what the kind is to cross."""
    pixels = spec.N * math.prod(spec.case.outputs)
    if kind in ("depth", "depth_of_dx", "pixels"):
        return pixels > 250
    return kind not in ("images", "planes") or pixels > 600


# -- checking ----------------------------------------------------------------------------------------


def check(spec):
    """Raise AssertionError unless every pass keeps the contract on this problem."""
    before = numba.get_num_threads()
    numba.set_num_threads(min(spec.threads, numba.config.NUMBA_NUM_THREADS))
    try:
        with parallel.everywhere() if spec.parallel else nullcontext():
            _check_integers(spec)
            _check_normals(spec)
            _check_auto(spec)
    finally:
        numba.set_num_threads(before)


def _place(spec, array):
    """A copy of the array in the kind of memory of the case."""
    return array if spec.memory == "contiguous" else getattr(arrays, spec.memory)(array)


def _check_integers(spec):
    """Exact in all passes, into memory that held NaN, and added to integers; then the adjoint identity."""
    rng = np.random.default_rng(spec.seed)
    problem = Problem.integers(spec.case, spec.dtype, spec.layout, bool(spec.flip), spec.seed)
    if spec.special:
        problem = replace(problem, x=_with_special(problem.x, rng), dy=_with_special(problem.dy, rng))
    placed = problem.map(lambda array: _place(spec, array))
    for name in PASSES:
        with np.errstate(invalid="ignore"):
            expected = problem.expected(name)
        held = rng.integers(-9, 9, expected.shape).astype(spec.dtype)
        for algorithm in EXACT_ALGORITHMS:
            out = np.full(expected.shape, np.nan, spec.dtype)
            assert_exact(placed.run(name, algorithm, out=out), expected, spec.dtype)
            if name != "conv2d":
                out = held.copy()
                placed.run(name, algorithm, out=out, accumulate=True)
                assert_exact(out, held + expected, spec.dtype)
    if spec.special:
        return
    for algorithm in EXACT_ALGORITHMS:
        y = _without_bias(placed).run("conv2d", algorithm)
        products = {_inner(problem.dy, y)}
        products.add(_inner(placed.run("conv2d_input_grad", algorithm), problem.x))
        products.add(_inner(placed.run("conv2d_weight_grad", algorithm), problem.weight))
        assert len(products) == 1, f"{algorithm}: <dy, conv(x)>, <dx, x> and <dw, w> are {products}"


def _with_special(array, rng):
    array = array.copy()
    if array.size:
        array.flat[::3] = 0  # zero times NaN or infinity is where hiding is easy
        places = np.concatenate([[0, array.size - 1], rng.integers(0, array.size, 2)])
        array.flat[places] = rng.choice((np.nan, np.inf, -np.inf), places.size)
    return array


def _without_bias(problem):
    return replace(problem, bias=np.zeros_like(problem.bias))


def _inner(a, b):
    """The inner product modulo 2**64, in which no order of summation matters."""
    with np.errstate(over="ignore"):
        return int(np.vdot(a.astype(np.int64).ravel(), b.astype(np.int64).ravel()))


def _check_normals(spec):
    """Within the bound of the contract; for Winograd the error of all results together, beside that of direct."""
    wide = np.float64 if spec.dtype == "float32" else np.longdouble
    unit = UNIT_ROUNDOFF[np.dtype(spec.dtype)]
    # Without a wider type there is no oracle for float64, and NumPy's loops over a wider type are slow.
    if np.finfo(wide).eps > unit / 256 or (wide is np.longdouble and spec.case.products > SMALL):
        return
    for name in PASSES:
        errors = dict.fromkeys(ALGORITHMS if name != "conv2d_bias_grad" else ALGORITHMS[:1], 0.0)
        scale, results, draw = 0.0, 0, 0
        # An error of few results is an accident: several draws of them are one.
        while draw == 0 or (results < MANY and draw < DRAWS and spec.case.supports("winograd") and len(errors) > 1):
            problem = Problem.normals(spec.case, spec.dtype, spec.layout, bool(spec.flip), spec.seed + draw)
            placed = problem.map(lambda array: _place(spec, array))
            exact = problem.astype(wide).evaluate(oracle, name)
            bound = (problem.terms(name) + 2) * unit * problem.magnitude(name)
            for algorithm in errors:
                if not spec.case.supports(algorithm):
                    continue
                error = np.abs(placed.run(name, algorithm).astype(wide) - exact)
                if algorithm in EXACT_ALGORITHMS:
                    assert (error <= bound).all(), f"{algorithm}, {name}: {(error > bound).sum()} beyond the bound"
                errors[algorithm] += float((error**2).sum())
            # Results can cancel to next to nothing: they count with the size that sums of such terms have; squared it
            # is this if signs are random.
            typical = problem.astype(wide).map(np.square).evaluate(oracle, name)
            scale += float(max((exact**2).sum(), typical.sum()))
            results, draw = results + exact.size, draw + 1
        for algorithm, error in errors.items():
            if algorithm not in EXACT_ALGORITHMS and scale > 0:
                # On few results the error of direct is now and then next to nothing: 4 ulp are always allowed.
                direct, relative = np.sqrt(errors["direct"] / scale), np.sqrt(error / scale)
                limit = 1e-5 * unit * 2**24
                if spec.case.has_winograd:
                    limit = min(limit, max(3 * direct, 8 * unit))
                assert relative <= limit, f"{algorithm}, {name}: relative RMS error {relative:.2g}, above {limit:.2g}"


def _check_auto(spec):
    """What is not asked for by name has the bits of one that is."""
    problem = Problem.normals(spec.case, spec.dtype, spec.layout, bool(spec.flip), spec.seed)
    placed = problem.map(lambda array: _place(spec, array))
    for name in PASSES[:3]:
        named = [placed.run(name, algorithm) for algorithm in ("direct", "winograd") if spec.case.supports(algorithm)]
        same = placed.run(name, "auto").tobytes() in [result.tobytes() for result in named]
        assert same, f"auto, {name}: neither direct's bits nor Winograd's"


# -- the command -------------------------------------------------------------------------------------


def run(spec):
    """None, or one line: how to run the case again, and what is wrong."""
    try:
        check(spec)
    except Exception as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return f"python -m tests.fuzz --case {shlex.quote(str(spec))}  # {what}"
    return None


def main(argv=None):
    """Run random cases, or one; the exit status is 1 if any fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300, help="how many cases (300)")
    parser.add_argument("--seed", type=int, help="the same cases again (default: fresh, and printed)")
    parser.add_argument("--case", type=Spec.parse, help="run the case of one line")
    parser.add_argument("--verbose", action="store_true", help="print each line first, in case the process dies")
    arguments = parser.parse_args(argv)
    if arguments.case is not None:
        failure = run(arguments.case)
        print(failure or "passed")
        return failure is not None
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        sys.exit("fuzz: the progress bar needs tqdm: pip install tqdm")
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    failures = 0
    with tqdm(total=arguments.count, unit="case", disable=None) as bar:
        for index in range(arguments.count):
            spec = draw(seed, index)
            if arguments.verbose:
                bar.write(str(spec))
            if (failure := run(spec)) is not None:
                failures += 1
                bar.write(failure)
            bar.update()
    print(f"{arguments.count - failures} cases passed, {failures} failed")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
