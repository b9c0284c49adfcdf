"""One picture for each network: GF/s of both sides as bars, the machine's peak as a line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bench.compare import Result
from bench.tables import group_by

# Distinct in print and for colour-blind readers (Okabe and Ito).
OURS, THEIRS, PEAK = "#0072B2", "#E69F00", "#444444"
TITLES = {"y": "forward pass", "dx": "input gradient", "dw": "weight gradient", "db": "bias gradient"}


def plot_networks(
    folder: Path, results: Sequence[Result], peak: float, peer: str | None, title: str, suffix: str
) -> list[Path]:
    """Write NETWORK-SUFFIX.png for each network into `folder`; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for network, members in group_by(results, lambda r: r.layer.network).items():
        stem = re.sub(r"[^\w.]+", "-", f"{network} {suffix}").strip("-")
        path = folder / f"{stem}.png"
        _plot(path, members, peak / 1e9, peer, f"{network}: {title}")
        paths.append(path)
    return paths


def _plot(path: Path, results: Sequence[Result], peak: float, peer: str | None, title: str) -> None:
    """One row of bars for each pass, one pair of bars for each layer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    passes = group_by(results, lambda r: r.name)
    layers = list(dict.fromkeys(r.layer for r in results))
    # Few layers stand in the middle of `places`, with bars no wider and labels that need no turning.
    places = max(5, len(layers))
    margin = 0.6 + (places - len(layers)) / 2
    size = (2.0 + places * (1.2 if places == 5 else 0.5), 1.6 + 2.2 * len(passes))
    shared = {"sharex": True, "sharey": True, "squeeze": False}
    figure, axes = plt.subplots(len(passes), 1, figsize=size, layout="constrained", **shared)
    width = 0.4 if peer else 0.7
    for axis, (name, members) in zip(axes[:, 0], passes.items(), strict=True):
        centres = [layers.index(r.layer) for r in members]
        shift = width / 2 if peer else 0
        ours = [r.rate(r.ours) / 1e9 for r in members]
        axis.bar([centre - shift for centre in centres], ours, width, color=OURS, label="numbaconv")
        if peer:
            theirs = [r.rate(r.theirs) / 1e9 for r in members]
            axis.bar([centre + shift for centre in centres], theirs, width, color=THEIRS, label=peer)
        if name != "db":  # a sum is far below it, and bound by memory
            axis.axhline(peak, color=PEAK, linestyle="--", linewidth=1, label="multiply-add peak")
        axis.set_title(f"{name}, {TITLES[name]}", loc="left", fontsize=10)
        axis.set_ylabel("GF/s")
        axis.grid(axis="y", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    turned = {"rotation": 45, "ha": "right"} if len(layers) > 5 else {}
    axes[-1, 0].set_xticks(range(len(layers)), [layer.name for layer in layers], fontsize=8, **turned)
    axes[-1, 0].set_xlim(-margin, len(layers) - 1 + margin)
    highest = max(axis.dataLim.ymax for axis in axes[:, 0])
    axes[-1, 0].set_ylim(0, 1.08 * max(peak, highest))
    figure.suptitle(title, fontsize=11)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)
