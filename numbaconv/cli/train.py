"""Train a classifier of handwritten digits, or of your own images, out of nothing but convolutions.

The network and its training loop are numbaconv/examples/digits.py. A quarter of the images, always the
same, is kept for the test. After each epoch the weights are saved, with all that --resume needs to go on
as if there had been no break; Ctrl-C saves, too. Needs: pip install "numbaconv[demo]"
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from ..conv2d import Conv2D
from ..examples import digits
from . import checkpoint, picture
from .checkpoint import Run
from .data import Images, load
from .files import UserError, output_path, require, write

DEFAULTS: dict[str, Any] = {
    "data": "digits",
    "epochs": 40,
    "batch_size": 32,
    "lr": 0.05,
    "seed": 0,
    "algorithm": "auto",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    default = {name: f"(default: {value})" for name, value in DEFAULTS.items()}
    count, seed = _number(int, 1, "a whole number above 0"), _number(int, 0, "a whole number, 0 or above")
    rate = _number(float, math.ulp(0), "a number above 0")
    add = parser.add_argument
    add("--data", metavar="digits|mnist5k|FILE.npz", help=f"images; a file holds x and y {default['data']}")
    add("--epochs", type=count, metavar="N", help=f"epochs of this call {default['epochs']}")
    add("--batch-size", type=count, metavar="N", help=f"images in a step {default['batch_size']}")
    add("--lr", type=rate, metavar="RATE", help=f"learning rate of the first epoch {default['lr']}")
    add("--seed", type=seed, metavar="N", help=f"of weights, order and shifts {default['seed']}")
    add("--dtype", choices=["float32", "float64"], help="of weights and images (default: float32)")
    add("--algorithm", metavar="NAME", help=f"of the convolutions {default['algorithm']}")
    add("--out", metavar="FILE.npz", help="weights (default: numbaconv-DATA.npz, or the file of --resume)")
    add("--plot", metavar="FILE.png", help="picture (default: the name of --out, ending in .png)")
    add(
        "--resume",
        metavar="FILE",
        help="go on from weights that this command wrote, with its options where none are given: "
        "finish the epochs it was asked for, or train --epochs more",
    )


def run(args: argparse.Namespace) -> int:
    """Train, save, draw; return the exit code."""
    started = time.perf_counter()
    tqdm = require("tqdm", "the progress bar").tqdm
    require("matplotlib.figure", "the picture")
    saved, old = checkpoint.read(args.resume) if args.resume else ({}, None)
    name = str(args.data or (old.data if old else DEFAULTS["data"]))
    out, plot = _outputs(args, name)
    dtype = saved["0.weight"].dtype if old else np.dtype(args.dtype or np.float32)
    if args.dtype not in (None, dtype):
        raise UserError(f"{args.resume} holds {dtype} weights; leave --dtype {args.dtype} out")
    images = load(name, dtype)
    state = _start(args, name, images, old)
    try:
        layers = digits.network(
            images.shape, len(images.labels), seed=state.seed, dtype=dtype, algorithm=state.algorithm
        )
        velocity = checkpoint.restore(layers, saved, args.resume) if old else {}
        print(f"{name}: {images}, {len(images.y_train)} to train on, {len(images.y_test)} to test", flush=True)
        _compile(layers, images, state.batch_size)
    except ValueError as error:  # an algorithm that does not exist, or not for these layers
        raise UserError(f"--algorithm {state.algorithm}: {error}") from None

    with CtrlC() as stop:
        while state.epoch < state.epochs and not stop.pressed:
            _train_epoch(state, layers, velocity, images, stop, tqdm)
            checkpoint.save(out, layers, velocity, state)
    if state.history:
        predicted = digits.predict(layers, images.x_test)
        right = int((predicted == images.y_test).sum())
        accuracy = f"test accuracy {right / len(predicted):.2%}"
        epochs = f"{state.epoch} epoch{'s' * (state.epoch > 1)}"
        title = f"{Path(name).name}: {accuracy} after {epochs}"
        weight = layers[0].weight
        write(plot, lambda file: picture.draw(file, title, state.history, weight, images, predicted))
        seconds = time.perf_counter() - started
        print(f"{accuracy} ({right} of {len(predicted)}), {seconds:.1f} s in all\npicture: {plot}")
    print(f"weights: {out}")
    if stop.pressed:
        print(f"numbaconv: stopped; go on with --resume {out}", file=sys.stderr)
        return 130
    return 0


def _train_epoch(
    state: Run, layers: list[Conv2D], velocity: dict[str, Any], images: Images, stop: CtrlC, tqdm: Any
) -> None:
    """Train what is left of an epoch and print how it went, or return after the step that Ctrl-C met."""
    started = time.perf_counter()
    epoch, total = state.epoch + 1, len(images.y_train)
    label = f"epoch {epoch:{len(str(state.epochs))}}/{state.epochs}"
    steps = digits.train_epoch(
        layers,
        velocity,
        images.x_train,
        images.y_train,
        epoch,
        seed=state.seed,
        batch_size=state.batch_size,
        lr=state.lr,
        start=state.images,
    )
    # disable=None: no bar where nobody watches, as in a log file. Overflow is told as divergence.
    with (
        tqdm(total=total, initial=state.images, desc=label, unit="img", leave=False, disable=None) as bar,
        np.errstate(over="ignore", invalid="ignore"),
    ):
        for count, loss, right in steps:
            if not math.isfinite(loss):
                raise checkpoint.diverged(state)
            state.step(count, loss, right)
            loss, accuracy = state.loss / state.images, state.right / state.images
            bar.set_postfix_str(f"loss {loss:.3f}, train {accuracy:.1%}", refresh=False)
            bar.update(count)
            if stop.pressed:
                return
        test = float((digits.predict(layers, images.x_test) == images.y_test).mean())
    state.finish_epoch(test)
    loss, accuracy, _ = state.history[-1]
    seconds = time.perf_counter() - started
    print(f"{label}  loss {loss:.4f}  train {accuracy:6.2%}  test {test:6.2%}  {seconds:.1f} s", flush=True)


class CtrlC:
    """Ctrl-C as a flag, so that no step is left half done; pressed again it stops at once."""

    pressed = False

    def __enter__(self) -> CtrlC:
        self._previous: Any = None
        # Where the signal is ignored, as in a background job of a shell, it stays so.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            try:
                self._previous = signal.signal(signal.SIGINT, self._press)
            except ValueError:  # not in the main thread, which gets all signals
                self._previous = None
        return self

    def __exit__(self, *error: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _press(self, number: int, frame: FrameType | None) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
        print("\nnumbaconv: saving after this step; Ctrl-C again stops at once", file=sys.stderr)


def _outputs(args: argparse.Namespace, name: str) -> tuple[Path, Path]:
    """Where weights and picture go."""
    default = f"numbaconv-{Path(name).name.removesuffix('.npz')}.npz"
    out = output_path(args.out or args.resume or default, "--out")
    plot = output_path(args.plot or str(out.with_suffix(".png")), "--plot")
    if plot.suffix.lower() != ".png":
        raise UserError(f"--plot writes PNG; choose a name that ends in .png, not {args.plot}")
    if out == plot:
        raise UserError(f"--out and --plot are both {out}; choose two names")
    if out == Path(name).expanduser().resolve():
        raise UserError(f"--out would overwrite the images {name}; choose another name")
    return out, plot


def _start(args: argparse.Namespace, name: str, images: Images, old: Run | None) -> Run:
    """A new run, or the old one with the options of this call."""
    given = {key: value for key, value in vars(args).items() if key in DEFAULTS and value is not None}
    facts: dict[str, Any] = {"data": name, "shape": list(images.shape), "labels": images.labels}
    if old is None:
        return Run(**(DEFAULTS | given | facts))
    if (old.shape, old.labels) != (facts["shape"], facts["labels"]):
        was = f"{'x'.join(map(str, old.shape))} images in {len(old.labels)} classes ({old.data})"
        raise UserError(f"{args.resume} was trained on {was}, but {name} has {images}; pass the same --data")
    if "epochs" in given or old.epoch >= old.epochs:
        given["epochs"] = old.epoch + given.get("epochs", DEFAULTS["epochs"])
    return Run(**(asdict(old) | given | facts))


def _compile(layers: list[Conv2D], images: Images, batch_size: int) -> None:
    """Run each kernel once, so that no epoch's time has the compiler in it."""
    started = time.perf_counter()
    scores, inputs = digits.forward(layers, images.x_train[:batch_size])
    digits.backward(layers, inputs, np.zeros_like(scores))
    seconds = time.perf_counter() - started
    print(f"kernels ready after {seconds:.1f} s (compiled once, then read from the cache)", flush=True)


def _number(kind: type[int] | type[float], smallest: float, wanted: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = -1
        if not smallest <= value < math.inf:
            raise argparse.ArgumentTypeError(f"must be {wanted}, got {text!r}")
        return value

    return parse
