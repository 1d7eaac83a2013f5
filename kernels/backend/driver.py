"""What a launch needs of the CUDA driver, through CuPy: load machine code, launch it on the current stream.

A launch is packed once and then costs one call. Tests without a GPU put a stub in the place of `api`.
"""

import ctypes
import threading
from collections.abc import Sequence
from functools import partial

_CTYPES = {"int64": (ctypes.c_int64, int), "float32": (ctypes.c_float, float), "float64": (ctypes.c_double, float)}


class _Thread(threading.local):
    has_context = False


class Cupy:
    """CuPy's bindings of the driver."""

    def __init__(self) -> None:
        from cupy import cuda

        self.device, self.launch = cuda.runtime.getDevice, cuda.driver.launchKernel
        self.current_stream, self.capturing = cuda.get_current_stream, cuda.runtime.streamIsCapturing
        self.event = partial(cuda.Event, disable_timing=True)
        self._cuda, self._thread = cuda, _Thread()

    def stream(self) -> int:
        """The handle of CuPy's current stream, for a launch."""
        if not self._thread.has_context:
            self._take_context()
        return self.current_stream().ptr

    def _take_context(self):
        """The runtime's calls make a thread's context current. Launching does not, and may be what it does first."""
        self._cuda.runtime.setDevice(self.device())
        self._thread.has_context = True

    def capability(self) -> tuple[int, int]:
        """(major, minor) of the current device."""
        digits = self._cuda.Device().compute_capability
        return int(digits[:-1]), int(digits[-1])

    def load(self, cubin: bytes, name: str) -> tuple[int, object]:
        """(handle of the kernel, what keeps it loaded)."""
        module = self._cuda.function.Module()
        module.load(cubin)
        function = module.get_function(name)
        return function.ptr, (module, function)


api: Cupy | None = None


def driver() -> Cupy:
    """The bindings in use."""
    global api
    if api is None:
        api = Cupy()
    return api


def packed(kinds: Sequence[str], args: Sequence) -> tuple[ctypes.Array, list]:
    """Kernel arguments as the driver takes them: (an array of pointers to them, the arguments)."""
    values = [ctype(plain(arg)) for (ctype, plain), arg in zip(map(_CTYPES.get, kinds), args, strict=True)]
    return (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values)), values
