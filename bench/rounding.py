"""Rounding of Winograd's algorithm and of direct sums: `python -m bench.rounding [--write]`.

Relative RMS error of float32 results on independent normal data, against direct sums of the same data in float64.
It draws `bench/figures/rounding.png`; nothing here depends on the speed of the machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import numbaconv
from bench import report, shapes, sides
from numbaconv import calls
from numbaconv.plan import plan_forward, winograd_blocks

README = report.ROOT / "README.md"
MARKER = "bench.rounding"
PICTURE = report.ROOT / "bench" / "figures" / "rounding.png"

N, F, EXTENT = 2, 32, 16
CHANNELS = tuple(2**k for k in range(4, 12))
TABLE_CHANNELS = (16, 64, 256, 1024, 2048)
# Maps of the weight gradient, whose sums run over the pixels, and its channels and filters.
MAPS, WIDTH = (7, 14, 56), 64
# Layers that the name "winograd" does not do, and "auto" leaves to it.
OTHERS = (
    "2,64,56,56,64,5,5,1,2",
    "2,64,56,56,64,7,7,1,3",
    "2,64,56,56,64,5,5,2,2",
    "2,3,224,224,64,7,7,2,3",
    "2,3,224,224,64,11,11,4,2",
    "2,128,56,56,128,3,3,2,1",
)
# The documented bound, in errors of the direct sum.
BOUND = 3

DIRECT, PYTORCH = "direct", "PyTorch"
VARIANTS = {2: "F(2x2, 3x3)", 4: "F(4x4, 3x3)"}
# Okabe and Ito, as in plots.py.
LINES = {
    DIRECT: ("#0072B2", "o"),
    VARIANTS[2]: ("#009E73", "s"),
    VARIANTS[4]: ("#D55E00", "^"),
    PYTORCH: ("#E69F00", "D"),
}

Errors = dict[str, float]


@contextmanager
def forced_variant(m: int) -> Iterator[None]:
    """In here, Winograd's y and dx are computed in tiles of m x m outputs, whatever the planner would take."""
    chosen = winograd_blocks.forward_variant
    winograd_blocks.forward_variant = lambda *extents: m
    forget_plans()
    try:
        yield
    finally:
        winograd_blocks.forward_variant = chosen
        forget_plans()


def forget_plans() -> None:
    """Forward calls are planned again."""
    plan_forward.cache_clear()
    calls.known_calls.clear()


def rms(actual: np.ndarray, exact: np.ndarray) -> float:
    """Root of the mean square error, over that of the exact values."""
    return float(np.sqrt(np.mean(np.square(actual - exact)) / np.mean(np.square(exact))))


def normals(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Arrays of independent normal data in float32."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def forward_errors(C: int, torch: bool) -> Errors:
    """Errors of y with C channels, by name."""
    x, weight = normals((N, C, EXTENT, EXTENT), (F, C, 3, 3))
    exact = numbaconv.conv2d(x.astype(np.float64), weight.astype(np.float64), padding=1, algorithm="direct")
    errors = {DIRECT: rms(numbaconv.conv2d(x, weight, padding=1, algorithm="direct"), exact)}
    for m, name in VARIANTS.items():
        with forced_variant(m):
            errors[name] = rms(numbaconv.conv2d(x, weight, padding=1, algorithm="winograd"), exact)
    if torch:
        errors[PYTORCH] = rms(torch_forward(x, weight), exact)
    return errors


def torch_forward(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """PyTorch's y."""
    import torch

    with torch.no_grad():
        return torch.conv2d(torch.from_numpy(x), torch.from_numpy(weight), padding=1).numpy()


def weight_grad_errors(extent: int) -> Errors:
    """Errors of dw on a map of extent x extent: the direct sum's, and Winograd's in the variant that is taken."""
    x, dy = normals((N, WIDTH, extent, extent), (N, WIDTH, extent, extent))
    exact = numbaconv.conv2d_weight_grad(x.astype(np.float64), dy.astype(np.float64), 3, padding=1, algorithm="direct")
    return {
        algorithm: rms(numbaconv.conv2d_weight_grad(x, dy, 3, padding=1, algorithm=algorithm), exact)
        for algorithm in (DIRECT, "winograd")
    }


def other_errors(layer: shapes.Layer, torch: bool) -> dict[str, Errors]:
    """Errors by pass, where `auto` takes Winograd's algorithm: the direct sum's, its own, and PyTorch's."""
    arrays = sides.make_arrays(layer, np.dtype(np.float32))
    wide = {name: array.astype(np.float64) for name, array in arrays.items()}
    exact = sides.numbaconv_side("exact", layer, wide, "NCHW", DIRECT)
    rounded = [sides.numbaconv_side(name, layer, arrays, "NCHW", name) for name in (DIRECT, "auto")]
    rounded += [sides.torch_side(layer, arrays, "NCHW")] if torch else []

    def result(side: sides.Side, name: str) -> np.ndarray:
        return side.to_nchw(name, side.passes[name]())

    return {
        name: {side.name: rms(result(side, name), result(exact, name)) for side in rounded}
        for name, algorithm in sides.algorithms(layer, "NCHW", "auto", np.dtype(np.float32)).items()
        if algorithm == "winograd"
    }


# -- the picture and the tables ----------------------------------------------------------------------


def draw(path: Path, errors: dict[int, Errors]) -> None:
    """Errors of y over the channels, both axes logarithmic, with the bound that is documented."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullLocator

    channels = list(errors)
    bound = [BOUND * values[DIRECT] for values in errors.values()]
    figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    axis.plot(channels, bound, color="#444444", linewidth=0.8, linestyle="--", label=f"bound: {BOUND} x direct")
    # From the highest curve to the lowest, as they lie in the picture.
    names = sorted(errors[channels[-1]], key=lambda name: -errors[channels[-1]][name])
    for name in names:
        color, marker = LINES[name]
        label = f"Winograd {name}" if name in VARIANTS.values() else name
        values = [values[name] for values in errors.values()]
        axis.plot(channels, values, color=color, marker=marker, markersize=4.5, linewidth=1.6, label=label)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(channels, [str(C) for C in channels])
    axis.set_ylim(1e-7, max(1e-5, 1.1 * max(bound)))
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(LogFormatterSciNotation(labelOnlyBase=False, minor_thresholds=(9, 9)))
    for ticks in (axis.xaxis, axis.yaxis):
        ticks.set_minor_locator(NullLocator())
    axis.set_xlabel("channels C")
    axis.set_ylabel("relative RMS error")
    axis.set_title(f"y in float32, 3x3, normal data, {N} images of {EXTENT}x{EXTENT}, F = {F}", loc="left", fontsize=10)
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def number(error: float) -> str:
    return f"{error:.2g}"


def with_ratio(error: float, direct: float) -> str:
    """An error, and how many times the direct sum's it is."""
    return f"{number(error)}, {error / direct:.1f}x"


def forward_table(errors: dict[int, Errors]) -> str:
    """One row for each number of channels."""
    names = [name for name in next(iter(errors.values())) if name != DIRECT]
    rows = [
        [str(C), number(values[DIRECT]), *(with_ratio(values[name], values[DIRECT]) for name in names)]
        for C, values in errors.items()
    ]
    return report.table(["C", DIRECT, *names], rows)


def weight_grad_table(errors: dict[int, Errors]) -> str:
    """One row for each map."""
    rows = []
    for extent, values in errors.items():
        shape, weight_shape = (N, WIDTH, extent, extent), (WIDTH, WIDTH, 3, 3)
        plan = numbaconv.explain(shape, weight_shape, padding=1, algorithm="winograd").weight_grad
        error = with_ratio(values["winograd"], values[DIRECT])
        rows.append([f"{extent}x{extent}", number(values[DIRECT]), error, variant_of(plan)])
    return report.table(["map", DIRECT, "Winograd", "variant"], rows)


def variant_of(plan: numbaconv.plan.Plan) -> str:
    """F(m x m, r x r), as the plan gives its reason."""
    return plan.reason.partition(";")[0].replace(" x ", "x")


def other_table(errors: dict[shapes.Layer, dict[str, Errors]]) -> str:
    """One row for each layer and pass."""
    names = [name for name in next(iter(next(iter(errors.values())).values())) if name != DIRECT]
    rows = []
    for layer, passes in errors.items():
        explained = numbaconv.explain(layer.shapes["x"], layer.shapes["weight"], **sides.options_of(layer))
        plans = dict(zip(("y", "dx", "dw"), explained.plans, strict=True))
        for name, values in passes.items():
            ratios = (with_ratio(values[side], values[DIRECT]) for side in names)
            rows.append([layer.name, name, number(values[DIRECT]), *ratios, variant_of(plans[name])])
    return report.table(["layer", "pass", DIRECT, *names, "variant"], rows)


def make_report(
    forward: dict[int, Errors],
    weight_grad: dict[int, Errors],
    others: dict[shapes.Layer, dict[str, Errors]],
    footer: str,
) -> str:
    chosen = {C: values for C, values in forward.items() if C in TABLE_CHANNELS}
    return "\n\n".join(
        (
            "Relative RMS error of y in float32, and how many times that of direct sums: 3x3, padding 1, "
            f"{N} images of {EXTENT}x{EXTENT}, F = {F}, independent normal data, against direct sums in float64.",
            forward_table(chosen),
            f"The same of dw, with C = F = {WIDTH} and Winograd's variant as it is chosen:",
            weight_grad_table(weight_grad),
            "Kernels that `auto` alone computes so, in the passes in which it does, stride and all:",
            other_table(others),
            footer,
        )
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.rounding", description=__doc__.partition("\n")[0])
    parser.add_argument("--plot", type=Path, default=PICTURE, metavar="FILE", help="(bench/figures/rounding.png)")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    options = parser.parse_args(arguments)
    torch, matplotlib = (importlib.util.find_spec(name) is not None for name in ("torch", "matplotlib"))
    if not torch:
        print("without PyTorch, whose errors are left out: pip install 'numbaconv[bench]'", file=sys.stderr)
    if not matplotlib:
        print("without the picture, which needs matplotlib: pip install 'numbaconv[bench]'", file=sys.stderr)
    forward = {C: forward_errors(C, torch) for C in CHANNELS}
    weight_grad = {extent: weight_grad_errors(extent) for extent in MAPS}
    others = {layer: other_errors(layer, torch) for layer in map(shapes.parse_shape, OTHERS)}
    command = shlex.join(["python", "-m", "bench.rounding", *["--write"] * options.write])
    packages = ["NumPy", "Numba", *["torch"] * torch]
    text = make_report(forward, weight_grad, others, f"Made by `{command}` on {report.footer(packages)}")
    print(text)
    if matplotlib:
        draw(options.plot, forward)
        print(options.plot, file=sys.stderr)
    if options.write:
        report.write_between_markers(README, MARKER, text)


if __name__ == "__main__":
    main()
