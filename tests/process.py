"""Python in a process of its own, for what depends on the environment or on what was imported first."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_python(code, *, folder=ROOT, **environment):
    """What `code` prints, run from the root of the checkout or another folder with warnings as errors."""
    command = [sys.executable, "-X", "faulthandler", "-W", "error", "-c", code]
    # The interpreter's own settings are kept: it may find the package by them.
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
