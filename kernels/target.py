"""CUDA: the one module that imports numba.cuda. Compiling, launching, and the intrinsics of device code.

Every intrinsic has a plain-Python twin, so that the text of a generated kernel also runs in numba's
simulator (NUMBA_ENABLE_CUDASIM=1).
"""

import contextlib
import ctypes
import re
import threading
import warnings
from functools import cache, partial

from llvmlite import ir
from numba import cuda, types

from . import driver, generate, memory, scalars
from .tree import CUDA_THREADS, SIMULATED

__all__ = [
    "add_atomic",
    "cuda",
    "device",
    "fma",
    "jit",
    "load",
    "maximum",
    "minimum",
    "sign",
    "sqrt",
    "store",
]

_GLOBAL = 1  # NVVM's address space of device memory: LDG and STG instead of generic loads and stores
_atomic = threading.Lock()

if SIMULATED:
    fma, sqrt, maximum, minimum, sign = scalars.EMIT  # the plain functions themselves
    load, store = cache(memory.plain_loader), cache(memory.plain_storer)

    def device(function):
        return function

    def add_atomic(address, value):
        with _atomic:
            held = ctypes.c_int32.from_address(int(address))
            old, held.value = held.value, held.value + value
        return old

else:
    from numba.cuda.extending import intrinsic, overload

    scalars.register(overload, intrinsic)
    fma, sqrt, maximum, minimum, sign = (scalars.compiled(f, intrinsic) for f in scalars.EMIT)
    # Inlined before typing: a device function compiled by itself would ask the driver which GPU it is for.
    device = cuda.jit(device=True, inline="always")

    @cache
    def load(dtype, lanes=1):
        return memory.loader(intrinsic, dtype, lanes, _GLOBAL)

    @cache
    def store(dtype, lanes=1):
        return memory.storer(intrinsic, dtype, lanes, _GLOBAL)

    @intrinsic
    def add_atomic(typingctx, address, value):
        """Add to the int32 at an address; returns what it was before. Relaxed: fence on both sides."""

        def generate(context, builder, signature, args):
            pointer = builder.inttoptr(args[0], ir.IntType(32).as_pointer(_GLOBAL))
            return builder.atomic_rmw("add", pointer, args[1], "monotonic")

        return types.int32(types.int64, types.int32), generate


class Kernel:
    """A CUDA kernel of addresses and sizes; compiled when first launched, or when asked for its code.

    kinds: of its arguments, "int64", "float32" or "float64". name: what profilers call it. code: where machine code is
    kept between processes, a path without its suffix, or None. resident: threads that a multiprocessor must have room
    for, which bounds the registers; None leaves them to ptxas.
    """

    def __init__(self, function, kinds, name, code=None, resident=None):
        self.function, self.kinds, self.name, self.code, self.resident = function, kinds, name, code, resident
        self._lock = threading.Lock()
        self._loaded = {}

    def launch(self, blocks, threads, *args):
        """Run on CuPy's current stream; does not wait. threads: x, or (x, y)."""
        self.prepare(blocks, threads, *args)()

    def prepare(self, blocks, threads, *args):
        """The call that launches with these arguments on what is CuPy's current stream then, on this device."""
        if not blocks:
            return _nothing
        if SIMULATED:
            return partial(_simulate, self.function, blocks, threads, args)
        api = driver.driver()
        x, y = threads if isinstance(threads, tuple) else (threads, 1)
        handle = self._handle(api)
        pointers, values = driver.packed(self.kinds, args)
        at, launch, stream = ctypes.addressof(pointers), api.launch, api.stream

        def run(held=(pointers, values)):
            launch(handle, blocks, 1, 1, x, y, 1, 0, stream(), at, 0)

        return run

    def _handle(self, api):
        with self._lock:
            device = api.device()
            if device not in self._loaded:
                self._loaded[device] = api.load(self.cubin(api.capability()), self.name)
            return self._loaded[device][0]

    def ptx(self, capability=(9, 0)):
        """PTX for a compute capability; needs no GPU."""
        types_of = [getattr(types, kind) for kind in self.kinds]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text, _ = cuda.compile(
                self.function, types.void(*types_of), device=False, abi="numba", cc=capability, output="ptx"
            )
        text = text.replace(re.search(r"\.entry\s+(\w+)", text)[1], self.name)
        if self.resident:
            bounds = f".maxntid {CUDA_THREADS}\n.minnctapersm {self.resident // CUDA_THREADS}"
            text = re.sub(r"(\.entry[^{]*\))\s*\{", rf"\1\n{bounds}\n{{", text, count=1)
        return text

    def cubin(self, capability=(9, 0)):
        """Machine code for a compute capability; needs no GPU. Kept on disk."""
        arch = f"sm_{capability[0]}{capability[1]}"
        path = self.code and self.code.with_name(f"{self.code.name}.{arch}.cubin")
        if path and path.exists():
            return path.read_bytes()
        try:
            from cuda.core import Linker, LinkerOptions, ObjectCode
        except ImportError:  # cuda-core before 1.0
            from cuda.core.experimental import Linker, LinkerOptions, ObjectCode

        linker = Linker(ObjectCode.from_ptx(self.ptx(capability).encode()), options=LinkerOptions(arch=arch))
        code = bytes(linker.link("cubin").code)
        if path:
            with contextlib.suppress(OSError):  # a full disk: the next process compiles again
                generate.write(path, code)
        return code


def jit(kinds, name, code=None, resident=None):
    """Decorator: the function becomes a Kernel of arguments of these kinds, e.g. "int64 float32"."""
    return lambda function: Kernel(function, kinds.split(), name, code, resident)


def _simulate(function, blocks, threads, args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba finds small grids slow; small parameters need no more
        cuda.jit(function)[blocks, threads](*args)


def _nothing():
    pass
