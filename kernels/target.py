"""CUDA: the one module that imports numba.cuda. Compiling, launching, and the intrinsics of device code.

Every intrinsic has a plain-Python twin, so that the text of a generated kernel also runs in numba's
simulator (NUMBA_ENABLE_CUDASIM=1).
"""

import ctypes
import os
import threading
import warnings
from functools import cache

from llvmlite import ir
from numba import cuda, types

from . import memory, scalars
from .tree import CUDA_THREADS

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

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")
BLOCK = 32 if SIMULATED else CUDA_THREADS  # threads a block; the simulator runs each as a thread of the system
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
    """A CUDA kernel of addresses and sizes, compiled when first launched, or when asked for its PTX."""

    def __init__(self, function, signature):
        self.function, self.signature = function, signature
        self._lock = threading.Lock()
        self._dispatcher, self._launches = None, {}

    def launch(self, blocks, threads, *args):
        """Run on CuPy's current stream; does not wait. threads: x, or (x, y)."""
        if blocks:
            geometry = blocks, threads, _current_stream()
            launch = self._launches.get(geometry) or self._configure(geometry)
            launch(*args)

    def _configure(self, geometry):
        with self._lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numba finds small grids slow; small parameters need no more
            if self._dispatcher is None:
                decorate = cuda.jit if SIMULATED else cuda.jit(self.signature)
                self._dispatcher = decorate(self.function)
            blocks, threads, stream = geometry
            stream = stream if SIMULATED else cuda.external_stream(stream)
            configured = self._dispatcher[blocks, threads, stream]
            if not SIMULATED:  # there it is the kernel itself, which knows its last geometry only
                self._launches[geometry] = configured
        return configured

    def ptx(self, capability=(9, 0)):
        """PTX for a compute capability; needs no GPU."""
        compiled, _ = cuda.compile(
            self.function, _parse(self.signature), device=False, abi="numba", cc=capability, output="ptx"
        )
        return compiled


def jit(signature):
    """Decorator: the function becomes a Kernel with this signature, e.g. "void(int64, float32)"."""
    return lambda function: Kernel(function, signature)


def _parse(signature):
    from numba.core.sigutils import normalize_signature

    arguments, result = normalize_signature(signature)
    return result(*arguments)


def _current_stream():
    if SIMULATED:
        return 0
    import cupy

    return cupy.cuda.get_current_stream().ptr
