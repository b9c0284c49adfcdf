"""Dense problems, of which y is one and dx as many as it has phases: their nest, and the padding left out.

With 3 x 3 taps 24 pixels apart, on 28 x 28, four products in five are with a zero of the padding. The outputs of a tap
that read a pixel are a rectangle. Two ways compute no others:

- Tap by tap: on its rectangle a tap is a 1 x 1 kernel, whose result is added to what other taps left. x is copied, and
  y read and written, once for each tap; dw has sums of its own for each.
- In the nest with filters in the vector, which goes from tap to tap, and whose sums stay in scratch: rows of outputs
  that a tap of theirs has no use for are left out, and columns where that pays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product

from ..geometry import LAYOUTS
from ..kernels.launch import Address
from ..kernels.problem import Part, Product
from . import channels_last, costs, direct, winograd
from .base import Plan, rectangle
from .costs import Way

# Most of the products that may be left, unless taps reach so far, in outputs.
FEW_PRODUCTS, FAR = 0.9, 16


def corner(p: Product, tap: tuple[int, int]) -> tuple[int, int]:
    """Row and column of x that the first output of :func:`rectangle` reads."""
    first = [outputs.start for outputs in rectangle(p, tap)]
    row, column = (p.offset[i] + tap[i] * p.dilation[i] + first[i] * p.stride[i] for i in (0, 1))
    return row, column


def products_left(p: Product) -> float:
    """The share of the products that are not with the padding."""
    taps = list(product(range(p.KH), range(p.KW)))
    seen = sum(len(rows) * len(columns) for rows, columns in (rectangle(p, tap) for tap in taps))
    return seen / max(1, len(taps) * p.OH * p.OW)


def may_pay(p: Product) -> bool:
    """Whether there are products to save, or outputs look so far around them that copies of x are large."""
    return max(p.reach(0), p.reach(1)) >= FAR or products_left(p) <= FEW_PRODUCTS


def _has_choice(products: list[Product]) -> bool:
    """Whether products may be left out, and there are enough of them."""
    p = max(products, key=lambda p: p.KH * p.KW * p.C)
    return p.KH * p.KW * p.C > 0 and may_pay(p)


def plan_products(plan: Plan, products: list[Product], others: Iterable[Way], padding: bool) -> Plan:
    """Plan of dense problems that run one after the other, the cheapest way: of all here, and `others` before them.

    `padding`: with products with it.
    """
    return min((*others, *_ways(plan, products, padding)), key=lambda way: way[0])[1]()


def _ways(plan: Plan, products: list[Product], padding: bool) -> Iterator[Way]:
    """The ways there are, from the layout and the shape alone."""
    yield costs.by_pixels(plan, products), partial(direct.plan_products, plan, products)
    filters = _filters_fit(plan, products)
    if filters:
        yield costs.by_filters(plan, products, False), partial(channels_last.plan_products, plan, products)
    if padding or not _has_choice(products):
        return
    if filters:
        skipped = replace(plan, reason=f"{plan.reason}; padding skipped")
        planned = partial(channels_last.plan_products, skipped, products, skips=True)
        yield costs.by_filters(plan, products, True), partial(_without_padding, planned)
    # Sums of sums have less rounding than the bound of Winograd's, 3 times direct's, has room for. Adding to dx is one
    # addition. Taps of dx at a stride would add to its pixels one by one.
    one_by_one = plan.axes == LAYOUTS["NCHW"] and costs.written_apart(products)
    bounds = winograd.bounds(plan.name, plan.geometry, plan.dtype, plan.axes)
    if not (plan.accumulate or one_by_one or bounds):
        apart = [q for p in products for q in (_taps_of(p) if p.C > 0 else [p])]
        nest = channels_last if plan.axes == LAYOUTS["NHWC"] else direct
        planned = partial(nest.plan_products, replace(plan, reason=f"{plan.reason}; tap by tap"), apart)
        yield costs.by_taps(plan, apart), partial(_without_padding, planned)


def _without_padding(planned: Callable[[], Plan]) -> Plan:
    """A plan that leaves out products with the padding: y needs them where a weight is infinite, dx may do either."""
    plan = planned()
    if plan.name != "forward":
        return plan
    return replace(plan, with_padding=partial(plan.cut, plan.threads, padding=True))


def _filters_fit(plan: Plan, products: list[Product]) -> bool:
    """Whether filters can be in the vector: not in HWCN, nor where turned pixels of dx would be written one by one."""
    if plan.axes == LAYOUTS["NCHW"]:
        return not costs.written_apart(products) or bool(channels_last.phases(products))
    return plan.axes != LAYOUTS["HWCN"]


def _taps_of(p: Product) -> Iterator[Product]:
    """The problems of one tap each whose results add up to that of `p`: the first one writes all outputs."""
    everything = range(p.OH), range(p.OW)
    kernel = list(product(range(p.KH), range(p.KW)))
    first = next((tap for tap in kernel if rectangle(p, tap) == everything), None)
    if first is None:
        nothing = replace(p, C=0, KH=0, KW=0, stride=(1, 1), offset=(0, 0), dilation=(1, 1))
        yield replace(nothing, part=None, pixels=None)
    for tap in sorted(kernel, key=lambda tap: tap != first):
        if all(rectangle(p, tap)):
            yield _of_tap(p, tap, tap != first)


def _of_tap(p: Product, tap: tuple[int, int], add: bool) -> Product:
    """The problem of a tap and its outputs."""
    (kh, kw), (rows, columns), (w_kh, w_kw) = tap, rectangle(p, tap), p.w_strides[3:]
    part = p.part or Part((p.KH, p.KW), (0, 0), (1, 1))
    (every_h, every_w), (h, w) = part.every, part.first
    return replace(
        p,
        weight=Address(p.weight.name, p.weight.offset + kh * w_kh + kw * w_kw),
        w_strides=(*p.w_strides[:3], w_kh // every_h * part.taps[0], w_kw // every_w * part.taps[1]),
        bias=None if add else p.bias,
        y=Address(p.y.name, p.y.offset + rows.start * p.y_strides[2] + columns.start * p.y_strides[3]),
        OH=len(rows),
        OW=len(columns),
        KH=1,
        KW=1,
        offset=corner(p, tap),
        dilation=(1, 1),
        accumulate=add,
        part=Part(part.taps, (h + kh * every_h, w + kw * every_w), part.taps),
        pixels=None,
    )
