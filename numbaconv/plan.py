"""Which kernel computes a pass, and in which blocks: the only place that chooses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numba.core import config

from .arrays import Array
from .geometry import Geometry
from .kernels import bias_grad, depthwise, forward, input_grad, loops, tiling, weight_grad
from .kernels.forward import Product
from .kernels.launch import Address, Launch, NestKernel, Program, entry_point

ALGORITHMS = ("auto", "loops", "direct")
Strides = tuple[int, int, int, int]
Axes = tuple[int, int, int, int]

NO_BIAS = {np.dtype(kind): np.empty(0, kind) for kind in (np.float32, np.float64)}

# A parallel start costs 15 to 35 microseconds on an idle machine, and milliseconds where other processes hold the
# cores: the training of the digits example took 15 times as long beside two busy processes with a threshold of 4
# million. One core does 16 million operations in 150 microseconds.
PARALLEL_FLOPS = 16_000_000
PARALLEL_BYTES = 1 << 20
# Multiply-adds that cost as much as copying a row of the taps of a pixel beside the other rows.
GATHERING_COST = 8
# Pieces of work to deal out, where blocks can be cut finer: with 16, a layer 512>512@7 loses 10% to reading its
# weight more often.
PIECES = 8


def check_algorithm(algorithm: Any) -> str:
    """Return `algorithm` if there is one of this name.

    Raises
    ------
    TypeError
        If it is no string.
    ValueError
        If there is no such algorithm.
    """
    if not isinstance(algorithm, str):
        raise TypeError(f"algorithm must be a string, got {algorithm!r}")
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {', '.join(map(repr, ALGORITHMS))}, got {algorithm!r}")
    return algorithm


@dataclass(frozen=True)
class Plan:
    """What runs for one pass: printable, and the same for any number of threads.

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
    program: Program | None = None
    blocks: dict[str, int] = field(default_factory=dict)

    @property
    def scratch_bytes(self) -> int:
        """Scratch memory of one worker."""
        return self.program.scratch * self.dtype.itemsize if self.program else 0

    @property
    def shared_bytes(self) -> int:
        """Scratch memory that all workers share: packed weights, partial sums."""
        return self.program.shared * self.dtype.itemsize if self.program else 0

    def run(self, a: Array, b: Array, bias: Array | None, out: Array) -> bool:
        """Run on (x, weight, bias, y), (dy, weight, None, dx) or (x, dy, None, dw).

        False if an array is not aligned, and nothing was done.
        """
        if self.program is not None:
            return self.program.run(a, b, NO_BIAS[self.dtype] if bias is None else bias, out)
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

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.algorithm} ({self.reason})"]
        if self.program:
            lanes = tiling.lanes(self.dtype.itemsize)
            tile = f"register tile {tiling.MR} x {tiling.VECTORS * lanes} of {self.dtype}"
            lines.append(f"  {tile}, vectors of {lanes}; " + ("parallel" if self.program.parallel else "serial"))
            lines.append("  blocks: " + ", ".join(f"{name} {size}" for name, size in self.blocks.items()))
            lines.append(
                f"  scratch: {self.scratch_bytes:,} bytes a thread, {self.shared_bytes:,} shared; "
                f"{self.program.pieces} pieces of work"
            )
        lines.append(f"  {self.geometry.flops:,} floating-point operations")
        return "\n".join(lines)


def choose(algorithm: str) -> tuple[str, str]:
    """The algorithm that runs when the user asks for `algorithm`, and why."""
    if config.DISABLE_JIT:
        if algorithm == "direct":
            raise ValueError("algorithm 'direct' needs Numba's compiler, which NUMBA_DISABLE_JIT turns off")
        return "loops", "NUMBA_DISABLE_JIT is set"
    if algorithm == "auto":
        return "direct", "faster than loops on every shape measured"
    return algorithm, "asked for by name"


@lru_cache(maxsize=1024)
def plan_forward(
    g: Geometry,
    dtype: np.dtype,
    algorithm: str,
    axes: Axes,
    flip: bool,
    x: Strides,
    w: Strides,
    bias: int | None,
    y: Strides,
) -> Plan:
    """Plan of y = conv2d(x, weight, bias); strides count elements of the arrays in the user's layout."""
    plan = Plan("forward", g, dtype, *choose(algorithm), axes, flip, False)
    if plan.algorithm == "loops":
        return plan
    x, y = _nchw(x, axes), _nchw(y, axes)
    start, w = _turned(g, w, flip)
    if _is_depthwise(g, dtype) and (depthwise_plan := _plan_depthwise(plan, x, y, start, w, bias)):
        return depthwise_plan
    F = g.F // g.groups
    product = Product(
        x="x",
        x_strides=x,
        H=g.H,
        W=g.W,
        weight=Address("weight", start),
        w_strides=(F * w[0], *w),
        bias=None if bias is None else "bias",
        bias_step=bias or 0,
        y=Address("y"),
        y_strides=y,
        N=g.N,
        C=g.C // g.groups,
        F=F,
        OH=g.OH,
        OW=g.OW,
        KH=g.KH,
        KW=g.KW,
        groups=g.groups,
        stride=g.stride,
        offset=(-g.padding[0], -g.padding[2]),
        dilation=g.dilation,
        accumulate=False,
    )
    return _of_products(plan, [product], ("x", "weight", "bias", "y"))


@lru_cache(maxsize=1024)
def plan_input_grad(
    g: Geometry,
    dtype: np.dtype,
    algorithm: str,
    axes: Axes,
    flip: bool,
    accumulate: bool,
    y: Strides,
    w: Strides,
    x: Strides,
) -> Plan:
    """Plan of dx; strides count elements of dy, weight and dx in the user's layout."""
    plan = Plan("input gradient", g, dtype, *choose(algorithm), axes, flip, accumulate)
    if plan.algorithm == "loops":
        return plan
    start, w = _turned(g, w, flip)
    x, y = _nchw(x, axes), _nchw(y, axes)
    if _is_depthwise(g, dtype) and (depthwise_plan := _plan_depthwise(plan, x, y, start, w, None)):
        return depthwise_plan
    products = list(input_grad.products(g, y, start, w, x, accumulate))
    return _of_products(plan, products, ("dy", "weight", "bias", "dx"))


@lru_cache(maxsize=1024)
def plan_weight_grad(
    g: Geometry,
    dtype: np.dtype,
    algorithm: str,
    axes: Axes,
    flip: bool,
    accumulate: bool,
    x: Strides,
    y: Strides,
    w: Strides,
) -> Plan:
    """Plan of dw; strides count elements of x, dy and dw in the user's layout."""
    plan = Plan("weight gradient", g, dtype, *choose(algorithm), axes, flip, accumulate)
    if plan.algorithm == "loops":
        return plan
    x, y = _nchw(x, axes), _nchw(y, axes)
    start, w = _turned(g, w, flip)
    names = ("x", "dy", "bias", "dw")
    parallel = g.flops >= PARALLEL_FLOPS
    lanes = tiling.lanes(dtype.itemsize)
    if _is_depthwise(g, dtype) and (depthwise_plan := _plan_depthwise(plan, x, y, start, w, None)):
        return depthwise_plan
    seen = _without_gaps(g)
    if seen is not g:
        x = (x[0], x[1], x[2] * g.stride[0] // seen.stride[0], x[3] * g.stride[1] // seen.stride[1])
    blocking = block_weight_grad(seen, dtype)
    buffers = {"partial": weight_grad.partial_elements(seen, blocking)}
    scratch = max(blocking.strip + blocking.gathered + blocking.panels, g.KH * g.KW * lanes)
    launches = weight_grad.launches(seen, x, y, start, w, blocking, accumulate)
    program = Program(launches, names, buffers, scratch, dtype, parallel)
    blocks = {
        "shares": blocking.shares,
        "filters": blocking.FB,
        "channels": blocking.CB,
        "images": blocking.images,
        "rows": blocking.rows,
        "columns": blocking.columns,
    }
    return replace(plan, program=program, blocks=blocks)


@lru_cache(maxsize=1024)
def plan_bias_grad(
    shape: tuple[int, int, int, int], dtype: np.dtype, axes: Axes, accumulate: bool, y: Strides, db: int
) -> Program | None:
    """Program of db, or None for plain loops; shape and strides count elements of dy in the user's layout."""
    if choose("auto")[0] == "loops":
        return None
    N, F, OH, OW = _nchw(shape, axes)
    y = _nchw(y, axes)
    vector_axis = {0: bias_grad.IMAGES, 1: bias_grad.FILTERS, 3: bias_grad.PIXELS}[axes.index(3)]
    values: dict[str, int | Address] = {
        "dy": Address("dy"),
        "db": Address("db"),
        "db_f": db,
        "accumulate": accumulate,
    }
    values |= dict(zip(("y_n", "y_f", "y_h", "y_w"), y, strict=True))
    values |= {"N": N, "F": F, "OH": OH, "OW": OW, "vector_axis": vector_axis}
    launch = Launch(bias_grad.bias_grad, bias_grad.BIAS_GRAD, values, F)
    parallel = N * F * OH * OW * dtype.itemsize >= PARALLEL_BYTES
    names = ("dy", "", "db", "")
    return Program([launch], names, {}, tiling.lanes(dtype.itemsize), dtype, parallel)


# -- blocking ----------------------------------------------------------------------------------------


def block_forward(p: Product, dtype: np.dtype) -> forward.Blocking:
    """Blocks of a forward nest, from the shape alone."""
    lanes = tiling.lanes(dtype.itemsize)
    line = 64 // dtype.itemsize
    pixels = p.N * p.OH * p.OW
    most = tiling.NC_BYTES // dtype.itemsize
    blocks = max(1, -(-p.F // tiling.MC))
    MC = _round_up(-(-p.F // blocks), tiling.MR)
    chunks = max(-(-pixels // most), -(-PIECES // (p.groups * blocks)))
    NC = min(most, max(_round_up(-(-pixels // chunks), lanes), 4 * lanes))
    pitch = _round_up(NC + lanes, line)
    pitch += line if pitch // line % 2 == 0 else 0
    taps = max(1, p.KH * p.KW)
    most_channels = max(1, tiling.PANEL_BYTES // dtype.itemsize // (taps * pitch))
    KC = max(1, -(-p.C // max(1, -(-p.C // most_channels))))
    batch_runs = p.x_strides[0] == 1 and p.x_strides[3] != 1 and p.x_strides[1] != 1
    return forward.Blocking(batch_runs, NC, KC, MC, pitch, tiling.STRIP_BYTES // dtype.itemsize)


def block_weight_grad(g: Geometry, dtype: np.dtype) -> weight_grad.Blocking:
    """Blocks of the weight-gradient nest, from the shape alone."""
    lanes = tiling.lanes(dtype.itemsize)
    # The strip and the panels of dy share the scratch of a worker; gathered taps take a half of the strip's part.
    budget = tiling.PANEL_BYTES * 3 // 4 // dtype.itemsize
    C, F = g.C // g.groups, g.F // g.groups
    # A 1 x 1 kernel uses what was packed once per pixel only, so its blocks have to be larger.
    most_C, most_F = (64, 128) if g.KH * g.KW > 1 else (256, 256)
    CB = max(1, min(C, _round_up(-(-C // max(1, -(-C // most_C))), lanes)))
    FB = _round_up(-(-F // -(-F // most_F)), tiling.MR)
    reach = ((g.KH - 1) * g.dilation[0] + 1) * ((g.KW - 1) * g.dilation[1] + 1)
    while CB > lanes and reach * CB > budget:
        CB = _round_up(CB // 2, lanes)

    def strip(images: int, rows: int, columns: int) -> int:
        height = (rows - 1) * g.stride[0] + (g.KH - 1) * g.dilation[0] + 1
        return images * height * ((columns - 1) * g.stride[1] + (g.KW - 1) * g.dilation[1] + 1) * CB

    depth = min(tiling.DEPTH, max(1, budget // FB))
    row, kernel = -(-CB * g.KW // lanes), -(-CB * g.KH * g.KW // lanes)
    gathers = C == CB and g.dilation[1] == 1 and (row * g.KH - kernel) * FB > GATHERING_COST * g.KH
    if gathers:
        depth = max(1, min(depth, budget // 2 // (kernel * lanes)))
        budget //= 2
    columns = min(g.OW, depth)
    while columns > 1 and strip(1, 1, columns) > budget:
        columns = -(-columns // 2)
    rows = max(1, min(g.OH, depth // columns))
    while rows > 1 and strip(1, rows, columns) > budget:
        rows -= 1
    images = 1
    if rows == g.OH and columns == g.OW:
        images = max(1, min(g.N, depth // (rows * columns)))
        while images > 1 and strip(images, rows, columns) > budget:
            images -= 1
    blocks = -(-g.N // images) * -(-g.OH // rows) * -(-g.OW // columns)
    pieces = g.groups * -(-F // FB) * max(1, -(-C // CB))
    shares = max(1, min(blocks, -(-PIECES // pieces)))
    line = kernel * lanes if gathers else _round_up(CB * (g.KW if g.dilation[1] == 1 else 1), lanes)
    strip_size = strip(images, rows, columns) + lanes
    gathered = (images * rows * columns + 1) * line if gathers else 0
    return weight_grad.Blocking(shares, FB, CB, images, rows, columns, line, strip_size, gathered)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _nchw(strides: Strides, axes: Axes) -> Strides:
    n, c, h, w = axes
    return strides[n], strides[c], strides[h], strides[w]


def _turned(g: Geometry, w: Strides, flip: bool) -> tuple[int, Strides]:
    """First element and strides of the weight that the nest reads: the kernel, or the turned one."""
    if not flip:
        return 0, w
    return (g.KH - 1) * w[2] + (g.KW - 1) * w[3], (w[0], w[1], -w[2], -w[3])


def _of_products(plan: Plan, products: list[Product], names: tuple[str, ...]) -> Plan:
    """Plan of dense problems that run one after the other."""
    g, dtype = plan.geometry, plan.dtype
    parallel = g.flops >= PARALLEL_FLOPS
    lanes = tiling.lanes(dtype.itemsize)
    products = [_flat(p) for p in products if p.N * p.F * p.OH * p.OW > 0]
    if not products:
        return replace(plan, reason="nothing to compute", program=Program([], names, {}, 0, dtype, False))
    blockings = [block_forward(p, dtype) for p in products]
    launches, scratch, panels = [], 0, 0
    for p, b in zip(products, blockings, strict=True):
        launches += forward.launches(p, b)
        lines = b.KC * max(1, p.KH * p.KW) * b.pitch
        scratch = max(scratch, b.MC * b.pitch + b.strip + lines + 2 * lanes)
        panels = max(panels, forward.panel_elements(p))
    program = Program(launches, names, {"panels": panels}, scratch, dtype, parallel)
    b = blockings[0]
    blocks = {"filters": b.MC, "pixels": b.NC, "channels": b.KC}
    if plan.name != "forward":
        blocks = {"channels": b.MC, "pixels": b.NC, "filters": b.KC, "phases": len(products)}
    return replace(plan, program=program, blocks=blocks)


def _flat(p: Product) -> Product:
    """A 1 x 1 kernel sees no rows: where both arrays store them one after the other, they are one."""
    one = p.KH == p.KW == 1 and p.stride == (1, 1) and p.offset == (0, 0)
    same = (p.H, p.W) == (p.OH, p.OW) and p.x_strides[2] == p.W * p.x_strides[3]
    if not (one and same and p.y_strides[2] == p.OW * p.y_strides[3]):
        return p
    return replace(p, H=1, W=p.H * p.W, OH=1, OW=p.OH * p.OW)


def _without_gaps(g: Geometry) -> Geometry:
    """A kernel of one row or column skips what its stride skips: the same problem on every stride-th pixel."""
    stride, extents = list(g.stride), [g.H, g.W]
    for axis, (taps, out, before) in enumerate(((g.KH, g.OH, g.padding[0]), (g.KW, g.OW, g.padding[2]))):
        if taps == 1 and before == 0 and stride[axis] > 1:
            extents[axis] = min(out, -(-extents[axis] // stride[axis]))
            stride[axis] = 1
    if tuple(stride) == g.stride:
        return g
    return replace(g, H=extents[0], W=extents[1], stride=(stride[0], stride[1]))


def _is_depthwise(g: Geometry, dtype: np.dtype) -> bool:
    """One channel and one filter per group, and enough of them to fill half a vector."""
    return g.C == g.F == g.groups and 2 * g.C >= tiling.lanes(dtype.itemsize)


def _plan_depthwise(plan: Plan, x: Strides, y: Strides, start: int, w: Strides, bias: int | None) -> Plan | None:
    """Plan of a pass with one channel and one filter per group; None if a row of it is too long for scratch."""
    g, dtype = plan.geometry, plan.dtype
    lanes = tiling.lanes(dtype.itemsize)
    blocks = -(-g.C // lanes)
    taps = (g.KH * g.KW + 1) * lanes
    forward_like = plan.name != "input gradient"
    # Columns and rows of the packed strip, and of the sums or of the packed dy, for a block of `rows` rows.
    if forward_like:
        columns, out_columns, most = (g.OW - 1) * g.stride[1] + (g.KW - 1) * g.dilation[1] + 1, g.OW, g.OH
    else:
        reach = (g.KW - 1) * g.dilation[1] // g.stride[1] + 1
        columns, out_columns, most = reach + max(g.OW, (g.W + g.padding[2]) // g.stride[1] + 1), g.W, g.H

    def strip(rows: int) -> int:
        height = (rows - 1) * g.stride[0] if forward_like else rows // g.stride[0] + 1
        return ((height + (g.KH - 1) * g.dilation[0] + 1) * columns + 4 * g.stride[1]) * lanes

    def size(rows: int) -> int:
        return strip(rows) + (rows * out_columns + 4 * g.stride[1]) * lanes

    rows = most
    while rows > 1 and size(rows) * dtype.itemsize > tiling.PLANES_BYTES:
        rows = -(-rows // 2)
    if size(rows) * dtype.itemsize > tiling.PANEL_BYTES:
        return None
    row_blocks = -(-most // rows)
    weight = Address("weight", start)
    shared = g, rows, strip(rows), plan.accumulate
    pieces = g.N * blocks * row_blocks
    buffers = {}
    if plan.name == "forward":
        names = ("x", "weight", "bias", "y")
        launches = [_depthwise(depthwise.depthwise_forward, pieces, ("x", "y"), x, y, weight, w, bias, 0, *shared)]
    elif plan.name == "input gradient":
        names = ("dy", "weight", "bias", "dx")
        launches = [_depthwise(depthwise.depthwise_input_grad, pieces, ("dx", "dy"), x, y, weight, w, None, 0, *shared)]
    else:
        names = ("x", "dy", "bias", "dw")
        weight = Address("dw", start)
        shares = max(1, min(g.N * row_blocks, -(-PIECES // blocks)))
        buffers = {"partial": shares * blocks * g.KH * g.KW * lanes}
        launches = [
            _depthwise(kernel, count, ("x", "dy"), x, y, weight, w, None, shares, *shared)
            for kernel, count in (
                (depthwise.depthwise_weight_grad, shares * blocks),
                (depthwise.add_depthwise_shares, blocks),
            )
        ]
    program = Program(launches, names, buffers, taps + size(rows), dtype, g.flops >= PARALLEL_FLOPS // 8)
    return replace(plan, reason=f"{plan.reason}; depthwise", program=program, blocks={"channels": lanes, "rows": rows})


def _depthwise(
    kernel: NestKernel,
    pieces: int,
    names: tuple[str, str],
    x: Strides,
    y: Strides,
    weight: Address,
    w: Strides,
    bias: int | None,
    shares: int,
    g: Geometry,
    rows: int,
    strip: int,
    accumulate: bool,
) -> Launch:
    return depthwise.launch(kernel, pieces, g, names, x, y, weight, w, bias, rows, strip, shares, accumulate)


def kernels() -> list[tuple[str, Callable[[np.dtype], object]]]:
    """Everything there is to compile: (name, what compiles it for a dtype)."""
    nests = (
        forward.pack_weight,
        forward.forward,
        weight_grad.weight_grad,
        weight_grad.add_shares,
        bias_grad.bias_grad,
        depthwise.depthwise_forward,
        depthwise.depthwise_input_grad,
        depthwise.depthwise_weight_grad,
        depthwise.add_depthwise_shares,
    )
    drivers = [("serial driver", False), ("parallel driver", True)]
    plain = (loops.forward, loops.input_grad, loops.weight_grad, loops.bias_grad)
    return [
        *((name, partial(entry_point, parallel=parallel)) for name, parallel in drivers),
        *((nest.__name__, nest.address) for nest in nests),
        *((f"loops {loop.__name__}", loop.compile) for loop in plain),
    ]
