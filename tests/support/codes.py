"""The functions of gdgpu.kernels.backend.quantize, compiled for the CPU, over arrays."""

from functools import cache

from numba import vectorize
from numba.extending import intrinsic

from gdgpu.kernels.backend import quantize


@cache
def run(name):
    """The function of this name of codes.FUNCTIONS."""
    _, _, result, kinds = quantize.FUNCTIONS[name]
    call = quantize.compiled(name, intrinsic)
    each = {1: lambda a: call(a), 2: lambda a, b: call(a, b), 3: lambda a, b, c: call(a, b, c)}
    return vectorize([result(*kinds)])(each[len(kinds)])
