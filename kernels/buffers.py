"""Small device buffers that kernels read: tables of addresses, items of work, hyperparameters, partial sums."""

import itertools

import numpy as np

LAUNCHES = 64  # from one look at counters to the next


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
        _refuse_capture(self.xp)
        self.host = np.array(array, order="C")
        self.held = self.host if self.xp is np else self.xp.asarray(self.host)
        self.address = address_of(self.held)

    def _send(self, array):
        cuda = self.xp.cuda
        stream = cuda.get_current_stream()
        _refuse_capture(self.xp)
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
            _refuse_capture(self.xp)
            held = self._held[name] = self.xp.zeros(nbytes, np.uint8)
        return address_of(held)


class Counters:
    """Arrival counters of kernels: int32 that are 0 between launches, which the last block to arrive sees to.

    After a launch that was cut, or two that overlapped, they are not, and no later result is right. They are looked
    at behind every so many launches, without waiting: what is copied there is read before the next copy.
    """

    def __init__(self, xp):
        self.xp, self.held, self._launches, self._copy = xp, None, 0, None

    def get(self, count):
        """The address of at least `count` of them."""
        if self.held is None or len(self.held) < count:
            _refuse_capture(self.xp)
            self.held = self.xp.zeros(count, np.int32)
        return address_of(self.held)

    def launched(self):
        """To be called behind a launch. RuntimeError if counters were found wrong; they are 0 again then."""
        self._launches += 1
        if self._launches % LAUNCHES == 0 and self.xp is not np and len(self.held):
            self._look(self.xp.cuda)

    def _look(self, cuda):
        stream = cuda.get_current_stream()
        if stream.is_capturing():
            return
        if self._copy is not None:
            held, pinned, copied = self._copy
            if not copied.done:
                return
            if np.frombuffer(pinned, np.int32, len(held)).any():
                self.held.fill(0)
                self._copy = None
                raise RuntimeError(
                    "a launch was cut, or two overlapped, on one workspace: "
                    f"trust no result of the last {2 * LAUNCHES} calls; the next ones are right again"
                )
        if self._copy is None or self._copy[0] is not self.held:
            pinned, copied = cuda.alloc_pinned_memory(self.held.nbytes), cuda.Event(disable_timing=True)
            self._copy = self.held, pinned, copied
        held, pinned, copied = self._copy
        held.data.copy_to_host_async(pinned.ptr, held.nbytes, stream)
        copied.record(stream)


def _refuse_capture(xp):
    """RuntimeError while a CUDA graph is recorded, which would hold what is about to be laid out or sent."""
    if xp is not np and xp.cuda.get_current_stream().is_capturing():
        raise RuntimeError(
            "a CUDA graph would repeat this change of lr, addresses or layout: make it before the capture, "
            "or take a step with it there"
        )


def address_of(array):
    """Where the first element of a NumPy or CuPy array lies."""
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
