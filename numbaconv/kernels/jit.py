"""Compilation: one machine code per kernel and dtype.

Numba compiles a function once for each combination of argument types, and contiguous, strided and
read-only arrays are all different types. A :class:`Kernel` asks for one normal form instead, any
strides and read-only inputs, and calls that entry point directly, whatever strides come.
"""

from __future__ import annotations

import gc
import inspect
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any, ClassVar

import numba
import numpy as np
from numba import types
from numba.core import config, registry
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.registry import CPUDispatcher

from .code_cache import cached
from .turn import turn


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


# Passes of Numba that look for what no kernel or helper has, closures and expressions of arrays.
NEEDLESS = ("InlineClosureLikes", "NopythonRewrites")


def shorter(passes: PassManager) -> PassManager:
    """Without needless passes, which take 4% of the time that the first kernels take."""
    left = PassManager(passes.pipeline_name)
    for each, description in passes.passes:
        if each.__name__ not in NEEDLESS:
            left.add_pass(each, description)
    left.finalize()
    return left


class Resolved:
    """Numba's typing context, which looks up what a function or an operator does with its types once.

    Numba asks for it at every place, and again until all types of a function are known. A sum of two integers alone is
    looked for among NumPy's functions of arrays first: 10% of the time that the first kernels take.
    """

    found: ClassVar[dict[tuple[types.Function, tuple[types.Type, ...]], Any]] = {}

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def resolve_function_type(self, function: Any, args: tuple[types.Type, ...], kws: dict[str, types.Type]) -> Any:
        if kws or not isinstance(function, types.Function):
            return self._context.resolve_function_type(function, args, kws)
        signature = self.found.get((function, args))
        if signature is None:
            signature = self.found[function, args] = self._context.resolve_function_type(function, args, kws)
        return signature


class KernelCompiler(CompilerBase):
    """Numba's compiler, without needless passes and repeated lookups."""

    def define_pipelines(self) -> list[PassManager]:
        self.state.typingctx = Resolved(self.state.typingctx)
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
def optimization(level: int, vectorize: bool) -> Iterator[None]:
    """LLVM's level of optimization, if it is at Numba's default; to be held with the compiler's lock.

    Most kernels are as fast at 2 as at 3, and where LLVM vectorizes no loops, since their vectors and tiles are
    explicit, and compile in 3/4 of the time.
    """
    before = config.OPT, config.LOOP_VECTORIZE
    registry.cpu_target.target_context.codegen()  # its code generator, which stays, is made at the default
    if config.OPT == 3:
        config.OPT = type(config.OPT)(level)
        config.LOOP_VECTORIZE = int(vectorize and config.LOOP_VECTORIZE)
    try:
        yield
    finally:
        config.OPT, config.LOOP_VECTORIZE = before


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage is collected: looking through the millions of objects that Numba makes takes 10% of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def compiling(level: int = 2, vectorize: bool = True) -> Iterator[None]:
    """Numba's compiler for this thread alone, at this level of LLVM, and Ctrl-C held back until it is done.

    An interrupt while Numba installs its types leaves some out, and nothing compiles in that process any more.
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
        with global_compiler_lock, optimization(level, vectorize), uncollected():
            yield
    finally:
        if holds:
            signal.signal(signal.SIGINT, handler)
            if caught:
                handler(*caught[0])


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
