"""What was measured as Markdown: a row for each layer and pass, and a summary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import exp, log

from bench import report
from bench.compare import Result
from bench.shapes import PASSES
from bench.sides import CHOICES


def geometric_mean(values: Iterable[float]) -> float:
    """exp(mean of log(value)).

    Raises
    ------
    ValueError
        If there is no value, or one that is not positive.
    """
    logarithms = [log(value) for value in values]
    if not logarithms:
        raise ValueError("there is no geometric mean of nothing")
    return exp(sum(logarithms) / len(logarithms))


def number(value: float) -> str:
    """Three digits, or all of an integer part that has more."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}" if value >= 0.0995 else f"{value:.3f}"


def group_by(results: Iterable[Result], key: Callable[[Result], str]) -> dict[str, list[Result]]:
    """Results by key, both in their order."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return groups


def excess(r: Result) -> float | None:
    """Time of the algorithm that auto takes over that of the faster one, or None where there is no choice."""
    if not all(r.others.get(name) for name in CHOICES):
        return None
    return min(r.others[r.algorithm]) / min(min(r.others[name]) for name in CHOICES)


def choice(r: Result) -> str:
    """What auto takes, and by how much it is slower than what it leaves."""
    if r.name == "db":
        return ""
    percent = round(100 * ((excess(r) or 1) - 1))
    return f"{r.algorithm}, {percent}% slower" if percent else r.algorithm


def choice_note(results: Sequence[Result]) -> str | None:
    """How often auto takes the slower one, and what that costs."""
    chosen = [r for r in results if excess(r)]
    if not chosen:
        return None
    worst = max(chosen, key=excess)
    return (
        f"`auto` takes the slower one of direct and Winograd in {sum(excess(r) > 1 for r in chosen)} of {len(chosen)} "
        f"passes that have the choice. Its time over the faster one's: geometric mean "
        f"{geometric_mean(map(excess, chosen)):.2f}, worst {excess(worst):.2f} ({worst.layer.name} {worst.name})."
    )


def ncnn_note(results: Sequence[Result]) -> str | None:
    """ncnn's time over ours in all layers."""
    ratios = [min(r.others["ncnn"]) / min(r.ours) for r in results if r.others.get("ncnn")]
    if not ratios:
        return None
    return (
        f"ncnn computes y image by image, with its weights transformed beforehand. Its time over ours: geometric mean "
        f"{geometric_mean(ratios):.2f} of {len(ratios)} layers."
    )


def _further_columns(results: Sequence[Result], unit: str, scale: float) -> list[tuple[str, Callable[[Result], str]]]:
    """Columns of the sides that only some runs have, each with what makes a cell."""

    def time_of(name: str) -> tuple[str, Callable[[Result], str]]:
        return f"{unit} {name}", lambda r: number(min(r.others[name]) * scale) if r.others.get(name) else ""

    names = {name for r in results for name in r.others}
    columns = [time_of(name) for name in CHOICES if name in names]
    columns += [("auto's choice", choice)] if columns else []
    return columns + [time_of(name) for name in sorted(names - set(CHOICES))]


def detail_table(results: Sequence[Result], peak: float, peer: str | None) -> str:
    """One row for each layer and pass: times, rates, percent of the peak, ratios."""
    unit, scale = ("µs", 1e6) if all(r.layer.network == "tiny" for r in results) else ("ms", 1e3)
    sides = ["ours", *([peer] if peer else [])]
    columns = _further_columns(results, unit, scale)
    header = ["layer", "pass", *(f"{unit} {side}" for side in sides), *(name for name, _ in columns)]
    header += [f"{what} {side}" for what in ("GF/s", "% of peak") for side in sides]
    header += ["ratio of minima", "ratio of medians"] if peer else []
    rows = []
    for r in results:
        times = [seconds for seconds in (r.ours, r.theirs) if seconds]
        row = [r.layer.name, r.name]
        row += [number(min(seconds) * scale) for seconds in times]
        row += [cell(r) for _, cell in columns]
        row += [number(r.rate(seconds) / 1e9) for seconds in times]
        # A sum has no products, so that its part of the multiply-add peak says nothing.
        row += ["" if r.name == "db" else f"{100 * r.rate(seconds) / peak:.0f}" for seconds in times]
        row += [f"{r.ratio:.2f}", f"{r.ratio_of_medians:.2f}"] if peer else []
        rows.append([*row, str(r.rounds)])
    return report.table([*header, "rounds"], rows)


def summary_table(results: Sequence[Result], peak: float, peer: str | None) -> str:
    """Geometric mean and worst layer of each set, each kind of layer and all; by ratio, or percent of the peak."""

    def value(r: Result) -> float:
        return r.ratio if peer else 100 * r.rate(r.ours) / peak

    form = ".2f" if peer else ".0f"
    networks = group_by(results, lambda r: r.layer.network)
    kinds = group_by(results, lambda r: r.layer.kind)
    groups = dict(networks)
    if len(networks) > 1:
        groups |= {f"*{kind}*": members for kind, members in kinds.items()}
        groups["**all**"] = list(results)
    names = [name for name in PASSES if any(r.name == name for r in results)]
    rows = []
    for group, members in groups.items():
        passes = group_by(members, lambda r: r.name)
        layers = {r.layer for r in members}
        rows.append([group, str(len(layers)), *(_summary(passes.get(name, ()), value, form) for name in names)])
    return report.table(["set", "layers", *names], rows)


def _summary(results: Sequence[Result], value: Callable[[Result], float], form: str) -> str:
    """Mean and worst, by name where there is more than one."""
    if not results:
        return ""
    mean = format(geometric_mean(value(r) for r in results), form)
    worst = min(results, key=value)
    return mean if len(results) == 1 else f"{mean}, worst {value(worst):{form}} ({worst.layer.name})"


def make_report(
    title: str, results: Sequence[Result], peak: float, peer: str | None, notes: Sequence[str], folded: bool
) -> str:
    """Summary, tables of each set, and notes; `folded` hides the tables until they are clicked at."""
    measure = f"{peer}'s time over ours, the fastest rounds: above 1, we are faster" if peer else "percent of the peak"
    parts = [f"**{title}.** Geometric mean and worst layer: {measure}.", summary_table(results, peak, peer)]
    for network, members in group_by(results, lambda r: r.layer.network).items():
        table = detail_table(members, peak, peer)
        heading = f"{network}, {_batches(members)}"
        if folded:
            parts += [f"<details><summary>{heading}</summary>", table, "</details>"]
        else:
            parts += [f"{heading}:", table]
    return "\n\n".join([*parts, *notes])


def _batches(results: Sequence[Result]) -> str:
    batches = sorted({r.layer.N for r in results})
    return f"batch {batches[0]}" if len(batches) == 1 else f"batches of {batches[0]} to {batches[-1]}"
