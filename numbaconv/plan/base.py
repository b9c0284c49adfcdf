"""What a plan is, and what all planners share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from ..arrays import Array
from ..geometry import LAYOUTS, Geometry
from ..kernels import loops, tiling
from ..kernels.launch import Address, Program
from ..kernels.problem import Product
from ..kernels.rows import inside
from ..kernels.turn import turn

Strides = tuple[int, int, int, int]
Axes = tuple[int, int, int, int]

NO_BIAS = {np.dtype(kind): np.empty(0, kind) for kind in (np.float32, np.float64)}

# A parallel start costs 15 to 35 microseconds on an idle machine, and milliseconds where other processes hold the
# cores: the training of the digits example took 15 times as long beside two busy processes with a threshold of 4
# million. One core does 12 million operations in 110 microseconds, and moves 2 MiB of activations in 70 to 120.
PARALLEL_FLOPS = 12_000_000
PARALLEL_BYTES = 2 << 20
# Pieces of work to deal out where blocks can be cut finer, two for a thread up to so many, then one: more of them pack
# x or the weight more often.
PIECES = 8
# Parts of dw that are summed apart: so many that there are PIECES, and for more threads up to MOST_PIECES, where each
# sums so many outputs that adding it to the others takes at most 2% as long, and all have so many bytes.
MOST_PIECES, SHARE_OUTPUTS, SHARES_BYTES = 32, 512, 4 << 20
# Activations of a thread that are still in its caches when the next problem of the pass begins: dx of 32 images 432@24
# 3x3/3 takes 0.65 of the time, y of 128>128@28 3x3 with taps 12 apart 0.8.
CACHED_BYTES = 4 << 20
# The longest share of pieces to the mean one, in shares that are even.
UNEVEN = 1.1


@dataclass(frozen=True)
class Plan:
    """What runs for one pass: printable, and with the same bits for any number of threads.

    `program` is None where the pass runs as plain loops. Arrays come in the user's layout; `axes` says where
    N, C, H and W stand in it.
    """

    name: str
    geometry: Geometry
    dtype: np.dtype
    algorithm: str
    reason: str
    axes: tuple[int, int, int, int]
    flip: bool
    accumulate: bool
    #: Threads that the work is cut for.
    threads: int
    #: Makes the same plan for another number of threads.
    cut: Callable[..., Plan] = field(compare=False, repr=False)
    program: Program | None = None
    blocks: dict[str, int] = field(default_factory=dict)
    #: Rows and columns of the register tile; none in the depthwise kernels.
    tile: tuple[int, int] | None = None
    #: Where no product with the padding is computed, though 0 * inf is NaN: makes the plan that computes them.
    with_padding: Callable[[], Plan] | None = field(default=None, compare=False, repr=False)
    _cuts: dict[int, Plan] = field(default_factory=dict, compare=False, repr=False)

    @property
    def arrays(self) -> tuple[str, str, str, str]:
        """What the launches call the arrays of :meth:`run`, in its order."""
        return {
            "forward": ("x", "weight", "bias", "y"),
            "input gradient": ("dy", "weight", "bias", "dx"),
            "weight gradient": ("x", "dy", "bias", "dw"),
        }[self.name]

    @property
    def scratch_bytes(self) -> int:
        """Scratch memory of one worker."""
        return self.program.scratch * self.dtype.itemsize if self.program else 0

    @property
    def shared_bytes(self) -> int:
        """Scratch memory that all workers share: packed weights, partial sums."""
        return self.program.shared * self.dtype.itemsize if self.program else 0

    def now(self) -> Plan:
        """The plan for as many threads as a call may use now.

        Cut for two, 512>512@14 3x3/2 takes one thread 16% (y) and 23% (dx) longer, since pieces pack on their own. Work
        that is not worth a second thread asks nobody, which would start the threads.
        """
        if self.program is None or not self.program.large or (threads := turn.threads()) == self.threads:
            return self
        plan = self._cuts.get(threads)
        if plan is None:
            plan = self._cuts[threads] = self.cut(threads)
        return plan

    def run(self, a: Array, b: Array, bias: Array | None, out: Array) -> bool:
        """Run on (x, weight, bias, y), (dy, weight, None, dx) or (x, dy, None, dw).

        False if an array is not aligned, and nothing was done.
        """
        if self.with_padding is not None and not all_finite(b):
            return self.with_padding().run(a, b, bias, out)
        if (program := self.now().program) is not None:
            return program.run(a, b, NO_BIAS[self.dtype] if bias is None else bias, out)
        g = self.geometry
        numbers = g.stride, g.dilation, g.padding, g.groups, self.accumulate
        turned = (slice(None), slice(None)) + (slice(None, None, -1 if self.flip else 1),) * 2
        if not all(array is None or array.flags.aligned for array in (a, b, bias, out)):
            return False
        a = a.transpose(self.axes)
        if self.name == "forward":
            bias = NO_BIAS[self.dtype] if bias is None else bias
            loops.forward(a, b[turned], bias, out.transpose(self.axes), *numbers)
        elif self.name == "input gradient":
            loops.input_grad(a, b[turned], out.transpose(self.axes), *numbers)
        else:
            loops.weight_grad(a, b.transpose(self.axes), out[turned], *numbers)
        return True

    def _threads(self) -> str:
        program = self.program
        if program is None or not program.parallel:
            return "serial"
        return "parallel" + (f", on {program.workers} threads at most" if program.workers < program.pieces else "")

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.algorithm} ({self.reason})"]
        if self.program:
            lanes = tiling.lanes(self.dtype.itemsize)
            tile = f"register tile {self.tile[0]} x {self.tile[1]}, " if self.tile else ""
            lines.append(f"  {tile}{self.dtype} in vectors of {lanes}; " + self._threads())
            lines.append("  blocks: " + ", ".join(f"{name} {size}" for name, size in self.blocks.items()))
            lines.append(
                f"  scratch: {self.scratch_bytes:,} bytes a thread, {self.shared_bytes:,} shared; "
                f"{self.program.pieces} pieces of work"
            )
        lines.append(f"  {self.geometry.flops:,} floating-point operations")
        return "\n".join(lines)


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements of a C-contiguous array."""
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= max(1, extent)
    return tuple(reversed(strides))


def nchw(values: tuple[int, ...], axes: Axes) -> Strides:
    """What belongs to N, C, H and W, from the order of a layout."""
    n, c, h, w = axes
    return values[n], values[c], values[h], values[w]


def steps(axes: Axes, shape: tuple[int, int, int, int]) -> Strides:
    """Strides of a new array of N, C, H, W, in elements, in this order."""
    return nchw(contiguous(tuple(shape[i] for i in np.argsort(axes))), axes)


def all_finite(array: Array) -> bool:
    """Whether no element, of one at least, is infinite or NaN, without an array of answers."""
    return bool(np.isfinite(array.max()) and np.isfinite(array.min()))


def enough_work(g: Geometry, dtype: np.dtype, slower: int = 1) -> bool:
    """Whether so many floating-point operations, at a slower rate, or activations are worth more than one thread."""
    return slower * g.flops >= PARALLEL_FLOPS or enough_bytes(g.activations * dtype.itemsize)


def enough_bytes(count: int) -> bool:
    """Whether reading so many bytes is worth more than one thread."""
    return count >= PARALLEL_BYTES


def pieces_of_output(threads: int) -> int:
    """Pieces of work to deal out in y and dx, whose sums do not depend on how the outputs are cut."""
    return max(threads, min(PIECES, 2 * threads if threads > 1 else 1))


def shares_of_sums(outputs: int, blocks: int, pieces: int, size: int) -> int:
    """Parts of the outputs whose products dw sums apart, of `size` bytes each, where each is `pieces` of work.

    From the shape alone: they decide the order of a sum.
    """
    more = min(-(-MOST_PIECES // pieces), outputs // SHARE_OUTPUTS, SHARES_BYTES // max(1, size))
    even = 1 << max(0, more.bit_length() - 1)  # for any number of threads that is a power of two
    return max(1, min(blocks, max(-(-PIECES // pieces), even)))


def are_even(pieces: int, threads: int) -> bool:
    """Whether there are enough of these pieces of work, and threads are done with them at nearly the same time."""
    return pieces >= pieces_of_output(threads) and -(-pieces // threads) * threads <= UNEVEN * pieces


def round_up(value: int, multiple: int) -> int:
    """The next multiple from `value` on."""
    return -(-value // multiple) * multiple


def even_blocks(extent: int, most: int, multiple: int = 1) -> int:
    """The size of blocks that cut an extent evenly: about `most` at most, and a multiple."""
    return max(1, round_up(-(-extent // max(1, -(-extent // max(1, most)))), multiple))


def turned(g: Geometry, w: Strides) -> tuple[int, Strides]:
    """How far the first element of the turned kernel is from that of the kernel, and its strides."""
    return (g.KH - 1) * w[2] + (g.KW - 1) * w[3], (w[0], w[1], -w[2], -w[3])


def rectangle(p: Product, tap: tuple[int, int]) -> tuple[range, range]:
    """Rows and columns of the outputs that read a pixel of x with a tap."""
    rows, columns = (
        range(*inside.py_func(p.offset[i] + tap[i] * p.dilation[i], p.stride[i], seen, outputs))
        for i, (seen, outputs) in enumerate(((p.H, p.OH), (p.W, p.OW)))
    )
    return rows, columns


def by_images(plan: Plan, products: list[Product]) -> list[Product]:
    """Problems of one tap each, on so many images after the other that what one leaves in caches is there for the next.

    They are taps, whose results are added up, or phases of dx, which each write some of all cache lines. With more taps
    to a problem there is enough to multiply for what memory brings, and each launch lets threads wait for each other.
    """
    g, single = plan.geometry, all(p.KH * p.KW <= 1 for p in products)
    if len(products) < 2 or not single or plan.axes == LAYOUTS["HWCN"]:  # whose images lie side by side
        return products
    image = g.activations // g.N * plan.dtype.itemsize
    count = even_blocks(g.N, CACHED_BYTES * plan.threads // image, plan.threads)
    return [p.of_images(n, min(count, g.N - n)) for n in range(0, g.N, count) for p in products]


def upright(p: Product) -> Product:
    """The same problem with taps that walk forwards: the input gradient's do on the turned kernel."""
    if min(p.dilation) > 0:
        return p
    _, _, _, w_kh, w_kw = p.w_strides
    start, offset = p.weight.offset, list(p.offset)
    for axis, (taps, stride) in enumerate(((p.KH, w_kh), (p.KW, w_kw))):
        start += max(0, taps - 1) * stride
        offset[axis] += max(0, taps - 1) * p.dilation[axis]
    return replace(
        p,
        weight=Address(p.weight.name, start),
        w_strides=(*p.w_strides[:3], -w_kh, -w_kw),
        offset=(offset[0], offset[1]),
        dilation=(-p.dilation[0], -p.dilation[1]),
    )
