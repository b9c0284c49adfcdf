"""Machine code of kernels on disk: found by other processes, and never stale."""

from __future__ import annotations

import hashlib
import pickle
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import caching, serialize


def _sources(folder: Traversable, where: str = "") -> Iterator[tuple[str, bytes]]:
    """(name, content) of every Python file in `folder` and below it; it may lie in an archive."""
    for path in folder.iterdir():
        if path.is_dir():
            yield from _sources(path, f"{where}{path.name}/")
        elif path.name.endswith(".py"):
            yield where + path.name, path.read_bytes()


@cache
def source_digest() -> bytes:
    """Hash of every file of this folder and those in it.

    Numba's own key covers only the file a function stands in, and would go on using machine code
    compiled from an older version of what that function calls.
    """
    digest = hashlib.sha256()
    for name, content in sorted(_sources(resources.files(__package__))):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.digest()


_warned: list[str] = []


def warn_uncached(reason: str) -> None:
    """Say that kernels are compiled again in every process; once, for whatever reason came first."""
    if _warned:
        return
    _warned.append(reason)
    warnings.warn(
        f"numbaconv compiles its kernels anew in every process: {reason}. "
        "Set NUMBA_CACHE_DIR to a folder that can be written.",
        RuntimeWarning,
        stacklevel=2,
    )


class KernelCache(caching.NullCache):
    """Compiled kernels on disk, one file for each key.

    The key holds everything the code depends on: sources, signature, CPU, versions. Numba's cache has an
    index file beside the data files, and two processes that save different signatures at once
    can leave it pointing at the other's code; without an index nothing can point wrongly. A file that is
    cut short or damaged fails its checksum and is compiled again.
    """

    def __init__(self, function: Callable) -> None:
        self._name = f"{function.__module__}.{function.__qualname__}"
        self._impl = caching.CompileResultCacheImpl(function)

    @property
    def cache_path(self) -> str:
        return self._impl.locator.get_cache_path()

    def _path(self, signature: Any, target_context: Any) -> Path:
        parts = (self._name, signature, target_context.codegen().magic_tuple(), sys.version_info)
        versions = (numba.__version__, llvmlite.__version__, np.__version__)
        key = hashlib.sha256(repr((parts, versions)).encode() + source_digest()).hexdigest()
        return Path(self.cache_path) / f"{self._name}-{key[:32]}.nbc"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        try:
            stored = self._path(sig, target_context).read_bytes()
        except OSError:
            return None
        checksum, data = stored[:32], stored[32:]
        if hashlib.sha256(data).digest() != checksum:
            return None
        return self._impl.rebuild(target_context, pickle.loads(data))

    def save_overload(self, sig: Any, data: Any) -> None:
        if not self._impl.check_cachable(data):
            return
        path = self._path(sig, data.target_context)
        payload = serialize.dumps(self._impl.reduce(data))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{uuid.uuid4().hex}.tmp")
            try:
                temporary.write_bytes(hashlib.sha256(payload).digest() + payload)
                temporary.replace(path)  # atomic: a reader sees the whole file or none
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:  # a full disk, a folder that went away
            warn_uncached(f"saving to {path.parent} failed ({error})")


def cached(compiler: Any, function: Callable) -> None:
    """Give a dispatcher or C function of `function` a :class:`KernelCache`, where there is a folder for it."""
    try:
        compiler._cache = KernelCache(function)
    except RuntimeError as error:
        warn_uncached(str(error))
