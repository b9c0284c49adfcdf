"""Show versions, CPU, threads and the folder of compiled kernels.

What a bug report or a benchmark needs to know about this machine.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import warnings
from pathlib import Path

import llvmlite
import llvmlite.binding
import numba
import numpy as np

import numbaconv

from ..kernels import loops

VECTOR_INSTRUCTIONS = ("sse2", "sse4.2", "avx", "avx2", "fma", "avx512f", "neon", "sve")
THREADING_LAYERS = {"tbb": "tbbpool", "omp": "omppool", "workqueue": "workqueue"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(args: argparse.Namespace) -> int:
    """Print the facts, one a line."""
    threads = numba.get_num_threads()  # starts the threads: only then is the layer chosen
    facts = {
        "numbaconv": numbaconv.__version__,
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "NumPy": np.__version__,
        "Numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "CPU": cpu_name(),
        "vector instructions": " ".join(vector_instructions()) or "none known",
        "threads": f"{threads} of {numba.config.NUMBA_NUM_THREADS}",
        "threading layer": f"{numba.threading_layer()} (available: {', '.join(threading_layers())})",
        "kernel cache": cache_folder(),
    }
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
    return 0


def cpu_name() -> str:
    """The name in words where the system tells it, and LLVM's."""
    llvm = llvmlite.binding.get_host_cpu_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({llvm})" if names else llvm


def vector_instructions() -> list[str]:
    """Those of :data:`VECTOR_INSTRUCTIONS` that the CPU has."""
    features = llvmlite.binding.get_host_cpu_features()
    return [name for name in VECTOR_INSTRUCTIONS if features.get(name)]


def threading_layers() -> list[str]:
    """Numba's threading layers whose libraries are installed."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a TBB that is too old
        for layer, module in THREADING_LAYERS.items():
            try:
                importlib.import_module(f"numba.np.ufunc.{module}")
            except ImportError:
                continue
            found.append(layer)
    return found


def cache_folder() -> str:
    """Where compiled kernels are kept between processes."""
    if numba.config.DISABLE_JIT:
        return "none (NUMBA_DISABLE_JIT is set)"
    folder = loops.forward.dispatcher.stats.cache_path
    if folder is None:
        return "none that can be written; set NUMBA_CACHE_DIR to one"
    return f"{folder} (NUMBA_CACHE_DIR)" if os.environ.get("NUMBA_CACHE_DIR") else str(folder)
