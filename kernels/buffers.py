"""Small device buffers that kernels read: tables of addresses, items of work, hyperparameters, partial sums."""

import itertools

import numpy as np


class Buffer:
    """A host array and its copy where kernels run, sent only when it changes.

    Its address stays while its size does, so launches that were prepared with it see what it holds then.
    xp: numpy (the copy is the array itself) or cupy.
    """

    def __init__(self, xp, array=None):
        self.xp, self.host, self.held, self.address, self._staging = xp, None, None, 0, None
        if array is not None:
            self.set(array)

    def set(self, array):
        """Let kernels launched from now on, on the current stream, see `array`. Does not wait."""
        if self.host is not None and (self.host.shape, self.host.dtype) == (array.shape, array.dtype):
            if np.array_equal(self.host, array):
                return
            if self.xp is not np:
                self._send(array)
            self.host[...] = array
            return
        self.host = np.array(array, order="C")
        self.held = self.host if self.xp is np else self.xp.asarray(self.host)
        self.address = address_of(self.held)

    def _send(self, array):
        cuda = self.xp.cuda
        stream = cuda.get_current_stream()
        if stream.is_capturing():
            raise RuntimeError("a CUDA graph would repeat this change of lr or addresses: make it before the capture")
        if self._staging is None:  # in turn: one is filled while the copy from the other may be under way
            slots = [(cuda.alloc_pinned_memory(self.host.nbytes), cuda.Event(disable_timing=True)) for _ in range(2)]
            self._staging = itertools.cycle(slots)
        pinned, sent = next(self._staging)
        sent.synchronize()
        np.frombuffer(pinned, self.host.dtype, self.host.size)[...] = np.ravel(array)
        self.held.data.copy_from_host_async(pinned.ptr, self.host.nbytes, stream)
        sent.record(stream)

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
