"""Machine code kept on disk: found by the next process, and never the reason of a wrong result."""

import pytest

from .process import run_python

# The kernel that compiles fastest stands for all: they share one cache.
PROGRAM = """
import numpy as np
from numba.core import event
import numbaconv

with event.install_recorder("numba:compile") as compiled:
    db = numbaconv.conv2d_bias_grad(np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2))
print(len(compiled.buffer) > 0, db.tolist())
"""
RIGHT = str([60.0, 92.0, 124.0])


def run(folder):
    compiled, db = run_python(PROGRAM, NUMBA_CACHE_DIR=str(folder)).strip().split(" ", 1)
    assert db == RIGHT
    return compiled == "True"


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_second_process_compiles_nothing(tmp_path):
    assert run(tmp_path)
    assert files(tmp_path)
    assert not run(tmp_path)


@pytest.mark.parametrize(
    "keep",
    ("half", *(pytest.param(keep, marks=pytest.mark.slow) for keep in ("nothing", "7 bytes", "other bytes"))),
)
def test_damaged_files(keep, tmp_path):
    """They are compiled again, and from then on found again."""
    assert run(tmp_path)
    for path in files(tmp_path):
        data = path.read_bytes()
        damaged = {
            "nothing": b"",
            "7 bytes": data[:7],
            "half": data[: len(data) // 2],
            "other bytes": bytes(len(data)),
        }[keep]
        path.write_bytes(damaged)
    assert run(tmp_path)
    assert not run(tmp_path)
