"""Which device runs: the CPU, a CUDA device through CuPy, or numba's CUDA simulator."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .typing import Array
    from .typing import Device as DeviceName

NAMES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Device:
    """Where arrays live and kernels run: a name, and the module that makes its arrays.

    `xp` is numpy on the CPU and in the simulator, cupy on a GPU.
    """

    name: str
    xp: ModuleType

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle and copy: by its name, which is looked up again."""
        return resolve, (self.name,)


DeviceLike: TypeAlias = "DeviceName | Device | None"


def simulated() -> bool:
    """True if CUDA kernels run in numba's simulator (NUMBA_ENABLE_CUDASIM=1)."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


@cache
def why_no_cuda() -> str | None:
    """One line that says why the GPU is not used, or None if it can be.

    The answer is kept for the life of the process: looking for a driver is slow.
    """
    from .kernels.backend.toolchain import COMPILER, import_compiler

    for package, load in (("cupy-cuda13x", _import_cupy), (f"{COMPILER}[cu13]", import_compiler)):
        try:
            load()
        except ImportError as error:
            return f"{package} cannot be imported ({error}); install gdgpu[cuda13] or gdgpu[cuda12]"
    if simulated():
        return None
    return why_no_device() or why_no_kernels()  # last: where there is no GPU, nobody waits for numba.cuda


def _import_cupy() -> None:
    if not simulated():
        import cupy  # noqa: F401


def why_no_device() -> str | None:
    """One line that says why CuPy sees no GPU, or None if it sees one. ImportError without CuPy."""
    import cupy

    try:
        if not cupy.cuda.runtime.getDeviceCount():
            return "no CUDA device was found"
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"no CUDA device: {error}"
    return None


def why_no_kernels(compiles: bool | None = None) -> str | None:
    """One line that says why no CUDA kernel can be compiled or taken from the disk, or None if it can; needs no GPU.

    compiles: whether what only compiles is asked for too. None: unless machine code that was compiled elsewhere is
    carried along (GDGPU_FINGERPRINT).
    """
    from .kernels.backend.toolchain import (
        COMPILER,
        COMPILER_NEEDED,
        import_compiler,
        install,
        one_line,
        version,
        why_no_code,
    )

    found, needed = version(COMPILER), f"needed: {COMPILER} {COMPILER_NEEDED} or newer, {install()}"
    if not found:
        return f"{COMPILER} is not installed; {needed}"
    if compiles is None:
        compiles = not os.environ.get("GDGPU_FINGERPRINT")
    try:
        from packaging.version import Version

        if compiles and Version(found) < Version(COMPILER_NEEDED):
            return f"{COMPILER} {found} is too old; {needed}"
        import_compiler()
        from .kernels.backend import cuda
    except Exception as error:
        beside = f"numba {version('numba')} and NumPy {version('numpy')}"
        return f"{COMPILER} {found} cannot be imported beside {beside} ({one_line(error)}); needed: {install()}"
    return why_no_code(cuda.libraries) if compiles else None


def resolve(device: DeviceLike = None) -> Device:
    """The device asked for: "auto", "cpu" or "cuda"; None takes GDGPU_DEVICE, else "auto".

    "auto" is the GPU where one can be used, else the CPU; it is never the simulator.
    Raises ValueError for another name, and for "cuda" where it cannot be used, saying why.
    """
    origin = "device"
    if device is None:
        origin, device = "GDGPU_DEVICE", os.environ.get("GDGPU_DEVICE") or "auto"
    if isinstance(device, Device):
        return device
    if device not in NAMES:
        raise ValueError(f"{origin}: expected one of {', '.join(NAMES)}, got {device!r}")
    if device == "auto":
        device = "cpu" if simulated() or why_no_cuda() else "cuda"
    if device == "cuda" and (reason := why_no_cuda()):
        raise ValueError(f"{origin}: 'cuda' was asked for, but {reason}")
    module = "cupy" if device == "cuda" and not simulated() else "numpy"
    return Device(device, import_module(module))


def on_host(array: Array) -> NDArray[Any]:
    """`array` as a C-contiguous NumPy array; copies from the GPU if it is there."""
    import numpy as np

    array = array.get() if hasattr(array, "get") else array
    return np.asarray(array, order="C")  # ascontiguousarray would turn a scalar into a vector
