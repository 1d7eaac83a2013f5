"""CUDA: the one module that imports numba.cuda. Compiling, launching, and the intrinsics of device code.

What belongs to that compiler is taken from here: `intrinsic`, `overload`, `types`, `CompileError`; its package is
named in toolchain.py.

Every intrinsic has a plain-Python twin, so that the text of a generated kernel also runs in numba's
simulator (NUMBA_ENABLE_CUDASIM=1).
"""

import contextlib
import ctypes
import math
import re
import threading
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
from llvmlite import ir
from numba import cuda, types
from numba.core.errors import NumbaError

from . import disk, driver, linking, memory, quantize, scalars, toolchain
from .buffers import Counters
from .geometry import SIMULATED
from .threads import whole

__all__ = [
    "CompileError",
    "add_atomic",
    "cuda",
    "device",
    "fence",
    "fma",
    "jit",
    "load",
    "math",
    "maximum",
    "minimum",
    "quantized",
    "sign",
    "sqrt",
    "store",
]

REGISTERS = 1 << 16  # of a multiprocessor, which gives them to threads by eights
_GLOBAL = 1  # NVVM's address space of device memory: LDG and STG instead of generic loads and stores
_atomic = threading.Lock()


@contextlib.contextmanager
def _lent_names():
    """numba-cuda overloads np.row_stack when it is imported; NumPy 2.5 and later have no such name."""
    if hasattr(np, "row_stack"):
        yield
        return
    np.row_stack = np.vstack
    try:
        yield
    finally:
        del np.row_stack


if SIMULATED:
    from .scalars import fma, maximum, minimum, sign, sqrt

    load, store = cache(memory.plain_loader), cache(memory.plain_storer)
    quantized = quantize.plain

    def device(function: Callable) -> Callable:
        return function

    def add_atomic(address, value):
        with _atomic:
            counter = ctypes.c_int32.from_address(int(address))
            old, counter.value = counter.value, counter.value + value
        return old

    def fence():
        """Every thread of the simulator sees every store."""

    CompileError = NumbaError

else:
    with _lent_names():
        from numba.cuda import cudaimpl  # noqa: F401
    from numba.cuda.core.errors import NumbaError as CompileError  # not the CPU compiler's
    from numba.cuda.extending import intrinsic, overload

    scalars.register(overload, intrinsic)
    fma = scalars.compiled(scalars.fma, intrinsic)
    sqrt = scalars.compiled(scalars.sqrt, intrinsic)
    maximum = scalars.compiled(scalars.maximum, intrinsic)
    minimum = scalars.compiled(scalars.minimum, intrinsic)
    sign = scalars.compiled(scalars.sign, intrinsic)
    # Inlined before typing: a device function compiled by itself would ask the driver which GPU it is for.
    device = cuda.jit(device=True, inline="always")

    @device
    def fence():
        """What this thread has stored is seen by the whole device before what it stores later."""
        cuda.threadfence()

    @cache
    def load(dtype: str, lanes: int = 1) -> Callable:
        return memory.loader(intrinsic, dtype, lanes, _GLOBAL)

    @cache
    def store(dtype: str, lanes: int = 1) -> Callable:
        return memory.storer(intrinsic, dtype, lanes, _GLOBAL)

    @cache
    def quantized(name: str) -> Callable:
        return quantize.compiled(name, intrinsic)

    @intrinsic
    def add_atomic(typingctx, address, value):
        """Add to the int32 at an address; returns what it was before. Relaxed: fence on both sides."""

        def generate(context, builder, signature, args):
            pointer = builder.inttoptr(args[0], ir.IntType(32).as_pointer(_GLOBAL))
            return builder.atomic_rmw("add", pointer, args[1], "monotonic")

        return types.int32(types.int64, types.int32), generate


def libraries() -> dict:
    """Where numba-cuda looks for NVVM, NVRTC and libdevice, and what it found."""
    from numba.cuda import cuda_paths

    return cuda_paths.get_cuda_paths()


class Kernel:
    """A CUDA kernel of addresses and sizes; compiled when first launched, or when asked for its code.

    kinds: of its arguments, "int64", "float32" or "float64". name: what profilers call it. code: a path without
    its suffix, where machine code stays between processes, or None. resident: threads that a multiprocessor must have
    room for, which bounds the registers; None leaves them to ptxas.
    """

    def __init__(
        self, function: Callable, kinds: list[str], name: str, code: Path | None = None, resident: int | None = None
    ) -> None:
        self.function, self.kinds, self.name, self.code, self.resident = function, kinds, name, code, resident
        self._loaded, self._made = {}, {}
        function.__qualname__ = name  # which numba puts into the name that profilers show

    def launch(self, blocks: int, threads: int | tuple[int, int], *args: float) -> None:
        """Run on CuPy's current stream; does not wait. threads: x, or (x, y)."""
        self.prepare(blocks, threads, *args)()

    def prepare(
        self,
        blocks: int,
        threads: int | tuple[int, int],
        *args: float,
        counters: Counters | None = None,
        keeps: object = None,
    ) -> "Launch":
        """The Launch with these arguments on this device. counters: those that it arrives at; keeps: see there."""
        if SIMULATED or not blocks:
            simulated = [partial(_simulate, self.function, blocks, threads, args)] if blocks else []
            return Launch(lambda: simulated, keeps=keeps)
        api = driver.driver()
        x, y = threads if isinstance(threads, tuple) else (threads, 1)
        handle = self._handle(api)
        pointers, values = driver.packed(self.kinds, args)
        at, launch, stream = ctypes.addressof(pointers), api.launch, api.stream

        def calls():
            return [partial(launch, handle, blocks, 1, 1, x, y, 1, 0, stream(), at, 0)]

        return Launch(calls, counters, (pointers, values, keeps))

    def _handle(self, api):
        device = api.device()
        if device not in self._loaded:
            with linking.compiling:  # by one thread; a fork waits for it
                if device not in self._loaded:
                    code = self.cubin(api.capability())
                    entry = re.search(rb"\0\.text\.(\w+)\0", code)[1].decode()
                    self._loaded[device] = api.load(code, entry)
        return self._loaded[device][0]

    def cubin(self, capability: tuple[int, int] = (9, 0)) -> bytes:
        """Machine code for a compute capability; needs no GPU. NumbaCache on disk."""
        path = self.code and self.code.with_name(f"{self.code.name}.sm_{capability[0]}{capability[1]}.cubin")
        if path and (code := disk.read(path)):
            return code
        code, _ = self.link(capability)
        if path:
            disk.write(path, code)
        return code

    def link(self, capability: tuple[int, int] = (9, 0), *options: str) -> tuple[bytes, str]:
        """(machine code, what ptxas says of it) for a compute capability; options are ptxas's. Needs no GPU.

        From NVVM's intermediate code, not from PTX: nvJitLink then compiles the program as a whole, which takes fewer
        registers. That code is the same for all capabilities from 8.0 on.
        """
        if self.resident and capability < (10, 0):  # for later ones NVVM unrolls further, and a bound would spill
            options = (*options, f"--maxrregcount={REGISTERS // self.resident & -8}")
        what = f"{self.name} for sm_{capability[0]}{capability[1]}"
        with linking.compiling, toolchain.named_faults(what, libraries):
            return linking.link(self._intermediate(min(capability, (8, 0))), capability, options)

    def _intermediate(self, capability):
        if capability not in self._made:
            signature = types.void(*(getattr(types, kind) for kind in self.kinds))
            how = {"device": False, "abi": "numba", "cc": capability, "output": "ltoir"}
            settled = {"debug": False, "opt": True}  # whatever numba's settings are, which no file's name says
            self._made[capability], _ = cuda.compile(self.function, signature, **how, **settled)
        return self._made[capability]


class Launch:
    """A kernel with its arguments, on what is CuPy's current stream when it is launched.

    make() gives the calls that launch. keeps: what must live as long.
    """

    __slots__ = ("counters", "keeps", "make")

    def __init__(self, make: Callable, counters: Counters | None = None, keeps: object = None) -> None:
        self.make, self.counters, self.keeps = make, counters, keeps

    def __call__(self) -> None:
        whole([self])

    def calls(self, jobs: list) -> list[Callable]:
        """See threads.Launch."""
        if self.counters:
            self.counters.launching()
        return self.make()


def jit(kinds: str, name: str, code: Path | None = None, resident: int | None = None) -> Callable:
    """Decorator: the function becomes a Kernel of arguments of these kinds, e.g. "int64 float32"."""
    return lambda function: Kernel(function, kinds.split(), name, code, resident)


def _simulate(function, blocks, threads, args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba finds small grids slow; small parameters need no more
        cuda.jit(function)[blocks, threads](*args)
