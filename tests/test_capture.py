"""What a step refuses while the current stream records a CUDA graph, on a stub of CuPy's streams and pinned memory."""

import types

import numpy as np
import pytest

import gdgpu
from gdgpu.kernels import buffers


class Event:
    def __init__(self, disable_timing):
        self.waited, self.recorded = 0, 0

    def synchronize(self):
        self.waited += 1

    def record(self, stream):
        self.recorded += 1


class Pinned(bytearray):
    """Host memory with an address, of which copies are made when `flush` says so."""

    @property
    def ptr(self):
        return np.frombuffer(self, np.uint8).ctypes.data


class Device(np.ndarray):
    """An array that takes copies from host memory only when the stream gets to them."""

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self.ctypes.data, copy_from_host_async=self._later)

    def _later(self, source, nbytes, stream):
        stream.pending.append((self, source, nbytes))


class Stream:
    def __init__(self):
        self.capturing, self.pending = False, []

    def is_capturing(self):
        return self.capturing

    def flush(self):
        for array, source, nbytes in self.pending:
            raw = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_uint8 * nbytes).from_address(source))
            np.ndarray.view(array, np.ndarray).reshape(-1).view(np.uint8)[:] = raw
        self.pending = []


@pytest.fixture
def xp():
    """As much of CuPy as buffers use."""
    stream = Stream()
    cuda = types.SimpleNamespace(get_current_stream=lambda: stream, alloc_pinned_memory=Pinned, Event=Event)
    return types.SimpleNamespace(cuda=cuda, stream=stream, asarray=lambda array: np.array(array).view(Device))


def test_a_buffer_changes_in_place_in_the_order_of_the_stream(xp):
    buffer = buffers.Buffer(xp, np.arange(6).reshape(2, 3))
    address = buffer.address
    for k in range(11, 15):
        buffer.set(np.full((2, 3), k))
        assert (np.asarray(buffer.held) != k).all()  # the device has not come to it yet
        xp.stream.flush()
        assert (np.asarray(buffer.held) == k).all()
    assert buffer.address == address == buffer.held.data.ptr
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
    assert np.array_equal(buffer.held, [1, 2, 3])


def test_a_step_that_a_graph_would_get_wrong_is_refused(monkeypatch):
    w = np.ones(3)
    optimizer = gdgpu.SGD(w, lambda step: 0.1)
    run = optimizer.bind(np.ones(3))
    for _ in range(3):
        run()
    before = w.copy()
    monkeypatch.setattr("gdgpu.optimizer.capturing", lambda xp: True)
    with pytest.raises(RuntimeError, match="CUDA graph"):
        run()
    assert (w == before).all() and optimizer.steps == 3
    monkeypatch.undo()
    run()
    assert optimizer.steps == 4


@pytest.mark.parametrize("optimizer", (lambda w: gdgpu.Momentum(w, 0.1), lambda w: gdgpu.SGD(w, 0.1, 0.9, 0.5)))
def test_others_are_recorded(optimizer, monkeypatch):
    w = np.ones(3)
    optimizer = optimizer(w)
    run = optimizer.bind(np.ones(3))
    run()
    monkeypatch.setattr("gdgpu.optimizer.capturing", lambda xp: True)
    run()
    assert optimizer.steps == 2
