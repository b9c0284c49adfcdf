"""Compilation: one machine code per kernel and dtype, kept on disk and never stale.

Numba compiles a function once for each combination of argument types, and contiguous, strided and
read-only arrays are all different types. A :class:`Kernel` asks for one normal form instead, any
strides and read-only inputs, and calls that entry point directly, whatever strides come.
"""

from __future__ import annotations

import gc
import hashlib
import inspect
import os
import pickle
import signal
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from types import FunctionType
from typing import Any

import llvmlite
import numba
import numpy as np
from numba import types
from numba.core import caching, config, registry, serialize
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.registry import CPUDispatcher


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


def named(*parameters: int) -> Callable[[Callable], Callable]:
    """Put the parameters of a factory into the name of the function that it makes.

    LLVM links by name, and Numba numbers functions of one name anew in every process: two of them that were compiled in
    different processes, and come out of the cache in a third, would be taken for each other.
    """

    def rename(function: Callable) -> Callable:
        ending = "".join(f"_{parameter}" for parameter in parameters)
        function.__name__ += ending
        function.__qualname__ += ending
        return function

    return rename


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


class Turn:
    """Whose turn it is to use Numba's threads.

    The threading layer workqueue aborts the process when two threads start parallel work at once, and a forked
    child that starts any with GNU OpenMP is killed. So one call at a time is parallel, and none is
    in a forked child; the others run the serial twin, which gives the same bits. Other code that uses
    Numba's threads is outside of this.

    Attributes
    ----------
    lock : threading.Lock
        To be held, by ``with``, while threads run. Ctrl-C between an `acquire` and its ``try`` would leave it
        locked: 2% of the interrupts of a call of 50 microseconds did.
    forked : bool
        Whether this process is a forked child.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.forked = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self.forked = True
        self.lock = threading.Lock()

    def free(self) -> bool:
        """Whether threads may be started with the lock held; who finds it taken after all may wait for it."""
        return not self.forked and not self.lock.locked()

    def threads(self) -> int:
        """How many threads a call may use now; a forked child asks nobody.

        Numba answers under locks of its own, and one that was held at the fork stays locked in the child.
        """
        return numba.get_num_threads() if self.free() else 1


turn = Turn()

# A child that is forked while another thread compiles would wait for that thread, which it does not have.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


class HelperLibrary(JITCodeLibrary):
    """LLVM's code of a helper: linked into what calls it and optimized there, never by itself.

    Numba would optimize each of a hundred helpers, with those that it calls in it, and make machine code that nobody
    runs: 30% of the time that the first kernels take. A helper cannot print or raise in consequence.
    """

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._verify_declare_only_symbols()
        self._finalized = True

    @property
    def codegen(self) -> HelperLibrary:
        """What is asked to set a function's environment, which has no address without machine code."""
        return self

    def set_env(self, name: str, environment: Any) -> None:
        pass


# Passes of Numba that look for what no helper has, closures and expressions of arrays.
NEEDLESS = ("InlineClosureLikes", "NopythonRewrites")


def shorter(passes: PassManager) -> PassManager:
    """Without needless passes, which take 4% of the time that the first kernels take."""
    left = PassManager(passes.pipeline_name)
    for each, description in passes.passes:
        if each.__name__ not in NEEDLESS:
            left.add_pass(each, description)
    left.finalize()
    return left


class KernelCompiler(CompilerBase):
    """Numba's compiler, without needless passes."""

    def define_pipelines(self) -> list[PassManager]:
        return [shorter(DefaultPassBuilder.define_nopython_pipeline(self.state))]


class HelperCompiler(KernelCompiler):
    """The same, with a :class:`HelperLibrary` for the code."""

    def define_pipelines(self) -> list[PassManager]:
        codegen = self.state.targetctx.codegen()
        self.state.library = HelperLibrary(codegen, self.state.func_id.func_qualname)
        return super().define_pipelines()


class HelperDispatcher(CPUDispatcher):
    """Numba's compilations of a helper: one for all ints, where Numba makes one more for each int that is written out.

    Only intrinsics of this folder want a constant, and they see those of the function that they stand in.
    """

    def get_call_template(self, args: tuple[types.Type, ...], kws: dict[str, types.Type]) -> tuple:
        return super().get_call_template(tuple(map(unliteral, args)), kws)


def unliteral(kind: types.Type) -> types.Type:
    """The type of a constant, or of a tuple with constants in it, as that of any other value."""
    if isinstance(kind, types.BaseTuple):
        return types.BaseTuple.from_types([unliteral(each) for each in kind])
    return types.unliteral(kind)


def helper(function: Callable, dispatcher: type[CPUDispatcher] = HelperDispatcher) -> Any:
    """What kernels call: compiled into them, and never called from Python or by its address.

    Without the wrappers for that a kernel compiles 7% faster.
    """
    if config.DISABLE_JIT:
        return function
    options = {"nopython": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return dispatcher(function, targetoptions=options, pipeline_class=HelperCompiler)


def inner(function: Callable) -> Any:
    """A helper with the innermost loops, where ints that a caller writes out, as strides of 1, have to be constants.

    Winograd's weight gradient takes 6% longer without.
    """
    return helper(function, CPUDispatcher)


@contextmanager
def optimization(level: int) -> Iterator[None]:
    """LLVM's optimization level, if it is at Numba's default; to be held with the compiler's lock.

    Most kernels are as fast at 2 as at 3, since their vectors and tiles are explicit, and compile in 3/4 of the time.
    """
    before = config.OPT
    registry.cpu_target.target_context.codegen()  # its code generator, which stays, is made at the default
    if before == 3:
        config.OPT = type(before)(level)
    try:
        yield
    finally:
        config.OPT = before


@contextmanager
def compiling(level: int = 2) -> Iterator[None]:
    """Numba's compiler for this thread alone, at this level of LLVM, and Ctrl-C held back until it is done.

    An interrupt while Numba installs its types leaves some out, and nothing compiles in that process any more. No
    garbage is collected meanwhile: Numba makes millions of objects that stay, and looking through them again and again
    takes 10% of the time.
    """
    handler = signal.getsignal(signal.SIGINT)
    holds = callable(handler) and threading.current_thread() is threading.main_thread()
    caught: list[Any] = []
    process = os.getpid()

    def hold(*interrupt: Any) -> None:
        if os.getpid() == process:
            caught.append(interrupt)
        else:  # another thread has forked, and nobody puts the handler back in the child
            handler(*interrupt)

    if holds:
        signal.signal(signal.SIGINT, hold)
    try:
        with global_compiler_lock, optimization(level):
            collects = gc.isenabled()
            gc.disable()
            try:
                yield
            finally:
                if collects:
                    gc.enable()
    finally:
        if holds:
            signal.signal(signal.SIGINT, handler)
            if caught:
                handler(*caught[0])


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


# The parameters of a loops kernel by name: activations and weights, vectors, pairs, the four paddings.
RANKS = {"x": 4, "y": 4, "dx": 4, "dy": 4, "weight": 4, "dw": 4, "bias": 1, "db": 1}
SCALARS = {
    "stride": types.UniTuple(types.int64, 2),
    "dilation": types.UniTuple(types.int64, 2),
    "padding": types.UniTuple(types.int64, 4),
    "groups": types.int64,
    "accumulate": types.boolean,
}


class Kernel:
    """A jitted kernel with one compiled form per dtype.

    Parameters
    ----------
    dispatcher : numba dispatcher
        Made by ``njit``; under NUMBA_DISABLE_JIT the plain function. Its parameters are named as above, an
        array first.
    writes : str
        The name of the parameter that is written; all other arrays are read-only.
    """

    def __init__(self, dispatcher: Any, writes: str) -> None:
        self.dispatcher = dispatcher
        self._entries: dict[tuple[np.dtype, bool], Callable] = {}
        function = getattr(dispatcher, "py_func", dispatcher)
        self.__name__, self.__doc__ = function.__name__, function.__doc__
        self._names = tuple(inspect.signature(function).parameters)
        self._writes = writes
        self._serial = dispatcher
        if function is not dispatcher:
            twin = FunctionType(function.__code__, function.__globals__, "serial", None, function.__closure__)
            twin.__module__, twin.__qualname__ = function.__module__, f"{function.__qualname__}_serial"
            self._serial = numba.njit(error_model="numpy", nogil=True)(twin)
            cached(dispatcher, function)
            cached(self._serial, twin)

    def compile(self, dtype: np.dtype, parallel: bool = True) -> Callable:
        """The entry point for arrays of `dtype`, compiled or loaded on first use."""
        entry = self._entries.get((dtype, parallel))
        if entry is None:
            entry = self.dispatcher if parallel and not turn.forked else self._serial
            if hasattr(entry, "compile"):
                element = numba.from_dtype(dtype)
                signature = [
                    types.Array(element, RANKS[name], "A", readonly=name != self._writes)
                    if name in RANKS
                    else SCALARS[name]
                    for name in self._names
                ]
                with compiling():
                    entry = entry.compile(tuple(signature))
            self._entries[dtype, parallel] = entry
        return entry

    def __call__(self, *args: Any) -> None:
        """Run on arrays that are aligned and native, the first of them of the dtype of the call."""
        if turn.threads() > 1:
            with turn.lock:
                self.compile(args[0].dtype)(*args)
        else:
            self.compile(args[0].dtype, parallel=False)(*args)


def kernel(*, writes: str) -> Callable[[Any], Kernel]:
    """Make a :class:`Kernel` of a jitted function that writes the parameter named `writes`."""
    return lambda dispatcher: Kernel(dispatcher, writes)
