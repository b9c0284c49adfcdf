"""The picture of a training run: learning curve, first-layer filters, test images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Any

import numpy as np

from .data import Images

RIGHT, WRONG = "#1a7f37", "#c62828"
LOSS, TRAIN, TEST = "#444444", "#4c78a8", "#f58518"
COLUMNS = 10


def draw(
    file: IO[bytes],
    title: str,
    history: Sequence[Sequence[float]],
    weight: Any,
    images: Images,
    predicted: Any,
) -> None:
    """Write the picture as PNG.

    Parameters
    ----------
    file : binary file, open for writing
    title : str
    history : sequence of (loss, training accuracy, test accuracy), one for each epoch
    weight : ndarray, shape (F, C, KH, KW)
        Of the first layer.
    images : Images
    predicted : ndarray of int, shape (number of test images,)
    """
    # Figure without pyplot: no window, no global state, no display needed.
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    figure = Figure(figsize=(11, 7.5), dpi=120, layout=layout)
    figure.suptitle(title, fontsize=14)
    halves: Any = figure.subfigures(2, 1, height_ratios=[1.25, 1], hspace=0.04)
    top, bottom = halves
    curves, filters = top.subfigures(1, 2, width_ratios=[2.1, 1], wspace=0.03)
    _draw_history(curves, np.asarray(history, float))
    _draw_filters(filters, weight)
    _draw_images(bottom, images, predicted)
    figure.savefig(file, format="png")


def _draw_history(figure: Any, history: Any) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    epochs = np.arange(1, len(history) + 1)
    left, right = figure.subplots(1, 2)
    style = {"marker": "o", "markersize": 3}
    left.plot(epochs, history[:, 0], color=LOSS, **style)
    left.set(title="Training loss (cross-entropy)", xlabel="epoch", yscale="log")
    left.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    right.plot(epochs, 100 * history[:, 1], color=TRAIN, label="training images, shifted", **style)
    right.plot(epochs, 100 * history[:, 2], color=TEST, label="test images", **style)
    right.set(title="Accuracy in %", xlabel="epoch")
    right.legend(loc="best")
    for axes in (left, right):
        axes.grid(alpha=0.3, which="both")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _draw_filters(figure: Any, weight: Any) -> None:
    F, C, KH, KW = weight.shape
    columns = int(np.ceil(np.sqrt(F)))
    grid = figure.subplots(-(-F // columns), columns, squeeze=False).ravel()
    largest = abs(weight).max() or 1
    for axes, kernel in zip(grid, weight, strict=False):
        if C == 3:
            axes.imshow(kernel.transpose(1, 2, 0) / (2 * largest) + 0.5)
        else:
            axes.imshow(kernel[0], cmap="RdBu", vmin=-largest, vmax=largest)
    for axes in grid:
        axes.axis("off")
    colours = "as RGB" if C == 3 else "blue +, red −" + (", channel 0" if C > 1 else "")
    figure.suptitle(f"First-layer filters {KH}x{KW} ({colours})", fontsize=12)


def _draw_images(figure: Any, images: Images, predicted: Any) -> None:
    """One row of test images, one of mistakes, both from all over the set, which may be sorted."""
    rows = [_spread(np.arange(len(predicted)))]
    wrong = np.flatnonzero(predicted != images.y_test)
    if len(wrong):
        rows.append(_spread(wrong))
    low, high = images.x_test.min(), images.x_test.max()
    grid = figure.subplots(len(rows), COLUMNS, squeeze=False)
    for line, members in zip(grid, rows, strict=True):
        for axes in line:
            axes.axis("off")
        for axes, i in zip(line, members, strict=False):
            image = images.x_test[i]
            if len(image) == 3:
                axes.imshow((image.transpose(1, 2, 0) - low) / (high - low))
            else:
                axes.imshow(image.mean(axis=0), cmap="gray", vmin=low, vmax=high)
            guess, truth = images.labels[predicted[i]], images.labels[images.y_test[i]]
            axes.set_title(f"{guess} / {truth}", fontsize=11, color=RIGHT if guess == truth else WRONG)
    shown = f"{COLUMNS} of " if len(wrong) > COLUMNS else ""
    below = f"; below, {shown}the {len(wrong)} mistakes in {len(predicted)}" if len(wrong) else ""
    figure.suptitle(f"Test images, with prediction / truth{below}", fontsize=12)


def _spread(members: Any) -> Any:
    """At most one member for each column, at equal distances."""
    count = min(len(members), COLUMNS)
    return members[np.arange(count) * len(members) // max(count, 1)]
