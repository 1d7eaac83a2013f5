"""What generated CPU kernels are made of: njit, and loads and stores by address."""

import math
from functools import cache

from numba import njit
from numba.extending import intrinsic

from . import codes, memory, vectors
from .scalars import fma, maximum, minimum, sign, sqrt

__all__ = ["coded", "fma", "jit", "load", "math", "maximum", "minimum", "sign", "sqrt", "store", "vectors"]


def jit(caching, signature=None):
    """njit that releases the GIL, divides as IEEE 754 does, and keeps its machine code on disk."""
    return njit(signature, nogil=True, error_model="numpy", cache=caching)


@cache
def load(dtype):
    return memory.loader(intrinsic, dtype)


@cache
def store(dtype):
    return memory.storer(intrinsic, dtype)


@cache
def coded(name):
    return codes.compiled(name, intrinsic)
