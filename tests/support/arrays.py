"""Arrays that tests share: of many shapes and dtypes, read-only, between elements, known by DLPack alone."""

import numpy as np
import pytest

from support.references import samples


def arrays(shapes, dtypes, seed):
    """An array for each pair of a shape and a dtype."""
    pairs = enumerate(zip(shapes, dtypes, strict=True))
    return [samples(shape or (1,), d, seed + 10 * k, wide=False).reshape(shape) for k, (shape, d) in pairs]


def copies(some):
    return [array.copy() for array in some]


def readonly(array):
    array.flags.writeable = False
    return array


def shifted(array):
    """A copy at an address that is no multiple of the element's size."""
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype)
    raw[...] = array
    return raw


def torch_with_grad(shape):
    torch = pytest.importorskip("torch", reason="a tensor that requires grad is torch's")
    return torch.zeros(shape, requires_grad=True)


class OnlyDLPack:
    """An array of which nothing is known but that it speaks DLPack."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()
