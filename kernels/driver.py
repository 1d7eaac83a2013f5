"""What a launch needs of the CUDA driver, through CuPy: load machine code, launch it on the current stream.

A launch is packed once and then costs one call. Tests without a GPU put a stub in the place of `api`.
"""

import ctypes

_CTYPES = {"int64": (ctypes.c_int64, int), "float32": (ctypes.c_float, float), "float64": (ctypes.c_double, float)}


class Cupy:
    """CuPy's bindings of the driver."""

    def __init__(self):
        import cupy

        self.device = cupy.cuda.runtime.getDevice
        self.launch = cupy.cuda.driver.launchKernel
        self._cupy = cupy

    def stream(self):
        """The handle of CuPy's current stream."""
        return self._cupy.cuda.get_current_stream().ptr

    def capability(self):
        """(major, minor) of the current device."""
        digits = self._cupy.cuda.Device().compute_capability
        return int(digits[:-1]), int(digits[-1])

    def load(self, cubin, name):
        """(handle of the kernel, what keeps it loaded)."""
        module = self._cupy.cuda.function.Module()
        module.load(cubin)
        function = module.get_function(name)
        return function.ptr, (module, function)


api = None


def driver():
    """The bindings in use."""
    global api
    if api is None:
        api = Cupy()
    return api


def packed(kinds, args):
    """Kernel arguments as the driver takes them: (an array of pointers to them, the arguments)."""
    values = [held(plain(arg)) for (held, plain), arg in zip(map(_CTYPES.get, kinds), args, strict=True)]
    return (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values)), values
