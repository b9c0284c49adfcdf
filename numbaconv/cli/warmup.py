"""Compile every kernel ahead of its first call, with a progress bar.

The machine code goes to the cache folder that `info` names, so that later processes only load it.
"""

from __future__ import annotations

import argparse
import time

import numba

from ..ahead import warmup
from .files import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which dtypes to compile for."""
    parser.add_argument(
        "--dtype",
        nargs="+",
        default=["float32"],
        choices=["float32", "float64"],
        help="dtypes to compile for (default: float32)",
    )


def run(args: argparse.Namespace) -> int:
    """Compile, and say how long it took."""
    if numba.config.DISABLE_JIT:
        raise UserError("there is nothing to compile: NUMBA_DISABLE_JIT is set")
    start = time.perf_counter()
    try:
        warmup(args.dtype, progress=True)
    except ModuleNotFoundError as error:
        raise UserError(str(error)) from None
    print(f"compiled or loaded for {', '.join(args.dtype)} in {time.perf_counter() - start:.1f} s")
    return 0
