"""Small device buffers that kernels read: tables of addresses, items of work, hyperparameters, partial sums."""

import itertools
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

Array = Any
LAUNCHES = 64  # from one look at counters to the next
_UNSEEN = -(1 << 31)  # what no counter comes to, where a copy is to come
_pinned, _faults = {}, []


class Buffer:
    """A host array and its copy where kernels run, sent only when it changes.

    Its address stays while its size does, so launches that were prepared with it see what it holds then.
    xp: numpy (the copy is the array itself) or cupy.
    """

    def __init__(self, xp: ModuleType, array: np.ndarray | None = None) -> None:
        self.xp, self.host, self.array, self.address, self._staging = xp, None, None, 0, None
        if array is not None:
            self.set(array)

    def set(self, array: np.ndarray) -> None:
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
        self.array = self.host if self.xp is np else self.xp.asarray(self.host)
        self.address = address_of(self.array)

    def _send(self, array):
        cuda, stream = self.xp.cuda, _refuse_capture(self.xp)
        if self._staging is None:  # in turn: one is filled while the copy from the other may be under way
            slots = [(cuda.alloc_pinned_memory(self.host.nbytes), cuda.Event(disable_timing=True)) for _ in range(2)]
            self._staging = itertools.cycle(slots)
        pinned, sent = next(self._staging)
        sent.synchronize()
        np.frombuffer(pinned, self.host.dtype, self.host.size)[...] = np.ravel(array)
        self.array.data.copy_from_host_async(pinned.ptr, self.host.nbytes, stream)
        sent.record(stream)

    def __len__(self) -> int:
        return len(self.host)


class Scratch:
    """Device memory that stays between calls and only grows, by name. Zero when new.

    retire(array): keeps what is replaced for as long as a launch may read it.
    """

    def __init__(self, xp: ModuleType, retire: Callable[[Array], None] = lambda array: None) -> None:
        self.xp, self.retire, self._arrays = xp, retire, {}

    def get(self, name: str, nbytes: int) -> int:
        """The address of at least nbytes."""
        array = self._arrays.get(name)
        if array is None or array.nbytes < nbytes:
            array = self._arrays[name] = _grown(self.xp, array, nbytes, np.uint8, self.retire)
        return address_of(array)


class Counters:
    """Arrival counters of kernels: int32 that are 0 between launches, which the last block to arrive sees to.

    After two launches that overlapped they are not, and no later result is right. Once in so many launches they
    are copied to the host; nobody waits for that: what has come is looked at after the next as many. A fault is raised
    by the next call of any owner (raise_fault), before it launches. Replays of CUDA graphs are not seen here.
    """

    def __init__(self, xp: ModuleType, retire: Callable[[Array], None] = lambda array: None) -> None:
        self.xp, self.retire, self.array, self._launches, self._copied = xp, retire, None, 0, 0
        self._give_back = None

    def get(self, count: int) -> int:
        """The address of at least `count` of them."""
        if self.array is None or len(self.array) < count:
            self.array = _grown(self.xp, self.array, count, np.int32, self.retire)
            if self.xp is not np:
                self._take_pinned(self.array.nbytes)
        return address_of(self.array)

    def launching(self) -> None:
        """To be called with each launch."""
        self._launches += 1
        if self._launches % LAUNCHES == 0 and self.xp is not np and len(self.array):
            self._look(self.xp.cuda.get_current_stream())

    def _take_pinned(self, nbytes):
        """Host memory of a pool of our own: a copy to it may still be under way when its owner is gone."""
        if self._give_back:
            self._give_back()
        size = 1 << (max(nbytes, 64) - 1).bit_length()
        free = _pinned.setdefault(size, [])
        pinned = free.pop() if free else self.xp.cuda.alloc_pinned_memory(size)
        self._give_back = weakref.finalize(self, free.append, pinned)
        self._seen, self._copied = np.frombuffer(pinned, np.int32, nbytes // 4), 0

    def _look(self, stream):
        if stream.is_capturing():
            return
        if self._copied:
            if (self._seen == _UNSEEN).any():  # it is still under way
                return
            if self._seen.any():
                self.array.fill(0)
                since = self._launches - self._copied + LAUNCHES
                _faults.append(
                    "two launches overlapped on one workspace, or one was cut: "
                    f"trust no result of its last {since} calls; the next ones are right again"
                )
        self._seen[...], self._copied = _UNSEEN, self._launches
        self.array.data.copy_to_host_async(self._seen.ctypes.data, self.array.nbytes, stream)


def raise_fault() -> None:
    """RuntimeError if counters were found wrong since the last call: nothing of this one is launched yet."""
    if _faults:
        raise RuntimeError(_faults.pop())


def _grown(xp, array, count, dtype, retire):
    """Zeros in the place of an array that is too small, or None, which launches may still read."""
    _refuse_capture(xp)
    if array is not None:
        retire(array)
    return xp.zeros(count, dtype)


def _refuse_capture(xp):
    """CuPy's current stream. RuntimeError while it records a CUDA graph, which would hold what is laid out or sent."""
    if xp is np:
        return None
    stream = xp.cuda.get_current_stream()
    if stream.is_capturing():
        raise RuntimeError(
            "a CUDA graph would repeat this change of lr, addresses or layout: make it before the capture, "
            "or take a step with it there"
        )
    return stream


def address_of(array: Array) -> int:
    """Where the first element of a NumPy or CuPy array lies."""
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
