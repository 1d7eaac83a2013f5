"""Arrays of the cases, on the device that this process is to run them on."""

import ctypes
import os

import numpy as np
from numpy.lib.array_utils import byte_bounds

from gdgpu import devices
from support.references import samples

SPECIAL = (0.0, -0.0, 1e-45, -1e-40, 1e-20, 65504.0, -3e38, np.inf, -np.inf, np.nan)


def target():
    """The device of this process, and the module of its arrays: the CPU unless GDGPU_DEVICE says otherwise."""
    return devices.resolve(os.environ.get("GDGPU_DEVICE") or "cpu")


def device():
    return target().name


def to_device(array):
    """The array where kernels run: itself, or a copy on the GPU with its strides and its offset from 16 bytes."""
    xp = target().xp
    if xp is np:
        return array
    if not array.size:
        return xp.empty(array.shape, array.dtype)
    low, high = byte_bounds(array)
    start = low % 16
    memory = xp.zeros(start + high - low, np.uint8)
    memory[start:].set(np.frombuffer((ctypes.c_char * (high - low)).from_address(low), np.uint8))
    return xp.ndarray(array.shape, array.dtype, memory.data + (start + array.ctypes.data - low), strides=array.strides)


def special(n, dtype, seed):
    """n values, the first of them every special one in an order of its own."""
    values = samples((n,), dtype, seed)
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        values[: len(SPECIAL)] = rng.permutation(np.array(SPECIAL).astype(values.dtype))[:n]
    return values


def unaligned(array):
    """A copy that begins one element after a multiple of 16 bytes."""
    raw = np.zeros(array.nbytes + 32, np.uint8)
    start = -raw.ctypes.data % 16 + array.itemsize
    copy = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def padded(G):
    """Rows three elements further apart than they are long."""
    wide = np.ones((G.shape[0], G.shape[1] + 3), G.dtype)
    wide[:, :-3] = G
    return wide[:, :-3]


def reversed_rows(G):
    """The last row lies first."""
    return np.ascontiguousarray(G[::-1])[::-1]
