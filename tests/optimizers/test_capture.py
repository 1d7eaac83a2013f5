"""What lies on the device is sent and looked at in the order of a stream: on a stub of CuPy's streams."""

import ctypes
import gc
import types

import numpy as np
import pytest

from gdgpu.kernels.backend import buffers


class Event:
    def __init__(self, disable_timing):
        self.waited, self.recorded, self.stream = 0, 0, None

    def synchronize(self):
        self.waited += 1

    def record(self, stream):
        self.recorded, self.stream = self.recorded + 1, stream

    @property
    def done(self):
        return not self.stream.pending


class Pinned(bytearray):
    """Host memory with an address, of which copies are made when `flush` says so."""

    @property
    def ptr(self):
        return np.frombuffer(self, np.uint8).ctypes.data


class Device(np.ndarray):
    """An array that takes copies from host memory, or gives them, only when the stream gets to them."""

    @property
    def data(self):
        to, back = self._to_device, self._to_host
        return types.SimpleNamespace(ptr=self.ctypes.data, copy_from_host_async=to, copy_to_host_async=back)

    def _to_device(self, source, nbytes, stream):
        stream.pending.append((self.ctypes.data, source, nbytes))

    def _to_host(self, target, nbytes, stream):
        stream.pending.append((target, self.ctypes.data, nbytes))


class Stream:
    def __init__(self):
        self.capturing, self.pending = False, []

    def is_capturing(self):
        return self.capturing

    def flush(self):
        for target, source, nbytes in self.pending:
            ctypes.memmove(target, source, nbytes)
        self.pending = []


@pytest.fixture
def xp():
    """As much of CuPy as buffers use."""
    stream = Stream()
    cuda = types.SimpleNamespace(get_current_stream=lambda: stream, alloc_pinned_memory=Pinned, Event=Event)

    def zeros(shape, dtype):
        return np.zeros(shape, dtype).view(Device)

    return types.SimpleNamespace(
        cuda=cuda, stream=stream, zeros=zeros, asarray=lambda array: np.array(array).view(Device)
    )


def test_a_buffer_changes_in_place_in_the_order_of_the_stream(xp):
    buffer = buffers.Buffer(xp, np.arange(6).reshape(2, 3))
    address = buffer.address
    for k in range(11, 15):
        buffer.set(np.full((2, 3), k))
        assert (np.asarray(buffer.array) != k).all()  # the device has not come to it yet
        xp.stream.flush()
        assert (np.asarray(buffer.array) == k).all()
    assert buffer.address == address == buffer.array.data.ptr
    slots = [next(buffer._staging)[1] for _ in range(2)]
    assert [(event.waited, event.recorded) for event in slots] == [(2, 2)] * 2  # filled in turn, never while in use


def test_a_buffer_sends_only_what_changed(xp):
    buffer = buffers.Buffer(xp, np.arange(3))
    buffer.set(np.arange(3))
    assert xp.stream.pending == []


def test_a_change_while_a_graph_is_recorded_is_refused_and_forgotten(xp):
    buffer = buffers.Buffer(xp, np.arange(3))
    xp.stream.capturing = True
    buffer.set(np.arange(3))
    with pytest.raises(RuntimeError, match="CUDA graph"):
        buffer.set(np.arange(3) + 1)
    xp.stream.capturing = False
    buffer.set(np.arange(3) + 1)
    xp.stream.flush()
    assert np.array_equal(buffer.array, [1, 2, 3])


def test_nothing_is_laid_out_while_a_graph_is_recorded(xp):
    """What a graph would copy from host memory at each replay, which is something else by then."""
    buffer, scratch, counters = buffers.Buffer(xp), buffers.Scratch(xp), buffers.Counters(xp)
    xp.stream.capturing = True
    for lay_out in (
        lambda: buffer.set(np.arange(3)),
        lambda: scratch.get("sums", 8),
        lambda: counters.get(2),
    ):
        with pytest.raises(RuntimeError, match="CUDA graph"):
            lay_out()


def launched(counters, stream, times):
    """That many launches; what is enqueued after each is done before the next."""
    for _ in range(times):
        counters.launching()
        stream.flush()


def test_counters_that_a_launch_left_wrong_are_found_and_the_next_call_says_so(xp):
    counters = buffers.Counters(xp)
    counters.get(3)
    launched(counters, xp.stream, 3 * buffers.LAUNCHES)  # as they should be
    buffers.raise_fault()
    counters.array[1] = 2
    launched(counters, xp.stream, 2 * buffers.LAUNCHES)
    with pytest.raises(RuntimeError, match=f"trust no result of its last {2 * buffers.LAUNCHES} calls"):
        buffers.raise_fault()
    buffers.raise_fault()  # once
    assert not np.asarray(counters.array).any()
    launched(counters, xp.stream, 3 * buffers.LAUNCHES)
    buffers.raise_fault()


def wrong_and_not_seen(xp):
    """Counters of which one is wrong; the device comes to nothing, so that no copy of them is there to be read."""
    counters = buffers.Counters(xp)
    counters.get(3)
    counters.array[1] = 2
    for _ in range(5 * buffers.LAUNCHES):
        counters.launching()
    return counters


def test_a_copy_that_comes_late_counts_from_where_it_was_made(xp):
    counters = wrong_and_not_seen(xp)
    xp.stream.flush()
    launched(counters, xp.stream, buffers.LAUNCHES)
    with pytest.raises(RuntimeError, match=f"of its last {6 * buffers.LAUNCHES} calls"):
        buffers.raise_fault()


def test_a_copy_under_way_has_memory_that_only_counters_get(xp):
    counters = buffers.Counters(xp)
    counters.get(3)
    for _ in range(buffers.LAUNCHES):
        counters.launching()
    (target, _, nbytes) = xp.stream.pending[-1]
    del counters
    gc.collect()
    pinned = {memory.ptr: memory for memory in buffers._pinned[64]}
    assert target in pinned and nbytes <= len(pinned[target])
    following = buffers.Counters(xp)
    following.get(5)
    assert following._seen.ctypes.data == target


def test_counters_are_looked_at_without_waiting_and_not_in_a_graph(xp):
    counters = wrong_and_not_seen(xp)
    assert len(xp.stream.pending) == 1
    xp.stream.flush()
    xp.stream.capturing = True
    launched(counters, xp.stream, 3 * buffers.LAUNCHES)


def test_counters_that_grew_are_looked_at_where_they_are(xp):
    retired = []
    counters = buffers.Counters(xp, retired.append)
    counters.get(3)
    first = counters.array
    launched(counters, xp.stream, buffers.LAUNCHES)
    counters.get(500)
    assert len(retired) == 1 and retired[0] is first
    counters.array[499] = 1
    launched(counters, xp.stream, 3 * buffers.LAUNCHES)
    with pytest.raises(RuntimeError, match="trust no result"):
        buffers.raise_fault()
    assert len(counters.array) == 500 and not np.asarray(counters.array).any()


def test_scratch_that_grew_is_kept_for_launches_that_read_it(xp):
    retired = []
    scratch = buffers.Scratch(xp, retired.append)
    addresses = [scratch.get("sums", n) for n in (8, 8, 4, 900)]
    assert len(set(addresses[:3])) == 1 and [len(array) for array in retired] == [8]
