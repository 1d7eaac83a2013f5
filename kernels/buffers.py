"""Small device buffers that kernels read: tables of addresses, items of work, hyperparameters, partial sums."""

import numpy as np


class Buffer:
    """A host array and its copy where kernels run, sent only when it changes.

    xp: numpy (the copy is the array itself) or cupy.
    """

    def __init__(self, xp):
        self.xp, self.host, self.held, self.address = xp, None, None, 0

    def set(self, array):
        """Let kernels launched from now on see `array`; returns whether it had changed."""
        array = np.ascontiguousarray(array)
        old = self.host
        if old is not None and old.shape == array.shape and old.tobytes() == array.tobytes():
            return False
        self.host = array.copy()
        self.held = self.host if self.xp is np else self.xp.asarray(self.host)
        self.address = address_of(self.held)
        return True

    def __len__(self):
        return len(self.host)


class Scratch:
    """Device memory that is kept between calls and only grows, by name. Zero when new."""

    def __init__(self, xp):
        self.xp, self._held = xp, {}

    def get(self, name, nbytes):
        """The address of at least nbytes."""
        held = self._held.get(name)
        if held is None or held.nbytes < nbytes:
            held = self._held[name] = self.xp.zeros(nbytes, np.uint8)
        return address_of(held)


def address_of(array):
    """Where the first element of a NumPy or CuPy array lies."""
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
