"""Running the command line inside the tests' process, in a current folder that holds ``tiny.npz``."""

import contextlib
import io
from pathlib import Path

import numpy as np

from numbaconv.cli import main

from .test_examples import bright_halves


def make_tiny(folder, monkeypatch):
    """Make `folder` the current one and write ``tiny.npz``: 40 images, 30 of them to train on."""
    monkeypatch.chdir(folder)
    x, y = bright_halves()
    np.savez("tiny.npz", x=(255 * x).astype(np.uint8), y=y + 3)


def run(*argv):
    """Run a command; return its exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(arg) for arg in argv])
        except SystemExit as stop:
            code = stop.code
    return code, out.getvalue(), err.getvalue()


def refused(*argv, code=2):
    """Assert that a command ends with one line, an exit code and no new file; return the line."""
    before = sorted(Path().rglob("*"))
    got, out, err = run(*argv)
    assert got == code, err
    assert err.startswith("numbaconv: ")
    assert err.count("\n") == 1
    assert "kernels ready" not in out or code == 1
    assert sorted(Path().rglob("*")) == before
    return err


def tiny(*argv):
    """The arguments that train on ``tiny.npz`` in steps of 8 images."""
    return "train", "--data", "tiny.npz", "--batch-size", 8, *argv


def arrays(path):
    """The bytes of each array of an ``.npz`` file."""
    with np.load(path) as saved:
        return {key: saved[key].tobytes() for key in saved}
