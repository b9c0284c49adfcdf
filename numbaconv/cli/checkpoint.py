"""The file of a training run: weights, velocities, and where the run stands.

``0.weight``, ``0.bias``, ``1.weight``, ... are the parameters, ``momentum.0.weight``, ... their velocities,
and ``run`` is the rest as JSON. Every random number of the training follows from seed, epoch and
image, so there is no state of a generator to keep.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..conv2d import Conv2D
from ..examples import digits
from .files import UserError, read_npz, write

MOMENTUM = "momentum."
ADVICE = "--resume takes a file that 'python -m numbaconv train' wrote"


@dataclass
class Run:
    """Where a training run stands, and all it depends on besides images and arrays."""

    data: str
    shape: list[int]
    labels: list[int]
    seed: int
    batch_size: int
    lr: float
    algorithm: str
    epochs: int  # to be trained in all
    epoch: int = 0  # trained to the end
    images: int = 0  # seen in the epoch after that, with the sum of their losses and the right answers
    loss: float = 0.0
    right: int = 0
    history: list[tuple[float, float, float]] = field(default_factory=list)  # loss, training, test accuracy

    def step(self, images: int, loss: float, right: int) -> None:
        """Count one batch."""
        self.images += images
        self.loss += loss * images
        self.right += right

    def finish_epoch(self, test_accuracy: float) -> None:
        """Count one epoch."""
        self.history.append((self.loss / self.images, self.right / self.images, test_accuracy))
        self.epoch += 1
        self.images, self.loss, self.right = 0, 0.0, 0


def save(path: Path, layers: list[Conv2D], velocity: dict[str, Any], run: Run) -> None:
    """Write the file; one that is there is replaced at once or not at all."""
    arrays = {key: parameter for key, parameter, _ in digits.parameters(layers)}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise diverged(run)
    arrays |= {MOMENTUM + key: velocity[key] for key in arrays}
    write(path, lambda file: np.savez(file, run=np.array(json.dumps(asdict(run))), **arrays))


def read(path: str) -> tuple[dict[str, Any], Run]:
    """Return the arrays of the file and where the run stood."""
    arrays = read_npz(path, ADVICE)
    try:
        run = Run(**json.loads(str(arrays.pop("run"))))
        arrays["0.weight"]
    except (KeyError, ValueError, TypeError):
        raise UserError(f"{path} holds no training run; {ADVICE}") from None
    return arrays, run


def restore(layers: list[Conv2D], arrays: dict[str, Any], path: str) -> dict[str, Any]:
    """Copy the parameters into the layers and return the velocities."""
    own = {key: parameter for key, parameter, _ in digits.parameters(layers)}
    expected = {name: array for key, array in own.items() for name in (key, MOMENTUM + key)}
    if {name: (array.shape, array.dtype) for name, array in arrays.items()} != {
        name: (array.shape, array.dtype) for name, array in expected.items()
    }:
        raise UserError(f"{path} does not fit the network of this version; train anew, without --resume")
    digits.load(layers, arrays)
    return {key: arrays[MOMENTUM + key] for key in own}


def diverged(run: Run) -> UserError:
    """The error for a loss or weights that are NaN or infinite."""
    return UserError(
        f"training diverged in epoch {run.epoch + 1}; lower --lr, now {run.lr:g}, "
        "and scale real-valued images to [0, 1]",
        1,
    )
