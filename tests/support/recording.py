"""A driver of no device, which keeps what would be launched on a GPU; NumPy's memory stands for the device's."""

import ctypes
import threading

import numpy as np
import pytest

from gdgpu import devices
from gdgpu.kernels.backend import driver, geometry
from gdgpu.samples import reduce

NEEDED = "gdgpu.kernels.backend.cuda", "gpu.dry"
target, gpu_dry = (pytest.importorskip(name, reason="needs numba-cuda: install gdgpu[test]") for name in NEEDED)
pytestmark = pytest.mark.skipif(geometry.SIMULATED, reason="the simulator compiles nothing")
TYPES = {"int64": ctypes.c_int64, "float32": ctypes.c_float, "float64": ctypes.c_double}
KINDS = {
    "update": ["int64"] * 4,
    "advance": ["int64"] * 6,
    "norms": ["int64"] * 4,
    "fused": ["int64"] * 4 + ["float32"],
    "reduce": ["int64"] * 4 + ["float32"],
    "collect": ["int64"] * 4 + ["float32"],
    "accumulate": ["int64"] * 7,
}


class Event:
    def __init__(self):
        self.recorded, self.done = [], False

    def record(self, stream):
        stream.record(self)


class Stream:
    """A stream of no device: `seen` is what it was asked for, in order."""

    def __init__(self, ptr):
        self.ptr, self.capturing, self.seen = ptr, False, []

    def record(self, event):
        event.recorded.append(self)
        self.seen.append(("record", event))

    def wait_event(self, event):
        self.seen.append(("wait", event.recorded[-1]))


class Driver:
    """A driver of no device: it keeps what would be launched."""

    event = Event

    def __init__(self):
        self.launched, self.loaded, self.streams, self.current = [], [], {}, 11

    def device(self):
        return 0

    def capability(self):
        return 9, 0

    def stream(self):
        return self.current

    def current_stream(self):
        """The stream whose handle is current: another one after a `del` from streams."""
        if self.current not in self.streams:
            self.streams[self.current] = Stream(self.current)
        return self.streams[self.current]

    def capturing(self, handle):
        return handle in self.streams and self.streams[handle].capturing

    def load(self, cubin, name):
        assert cubin[:4] == b"\x7fELF" and name.encode() in cubin
        self.loaded.append(next(kind + name.split(kind)[-1].split("B")[0] for kind in KINDS if kind in name))
        return len(self.loaded), None

    def launch(self, handle, *launch):
        *geometry, stream, pointers, _ = launch
        name = self.loaded[handle - 1]
        self.launched.append((name, geometry, stream, read(KINDS[name.split("_")[0]], pointers)))


def read(kinds, pointers):
    """A kernel's arguments, read the way the driver does."""
    at = (ctypes.c_void_p * len(kinds)).from_address(pointers)
    return [TYPES[kind].from_address(where).value for kind, where in zip(kinds, at, strict=True)]


@pytest.fixture
def stub(monkeypatch):
    """NumPy's memory stands for the device's."""
    monkeypatch.setenv("GDGPU_DEVICE", "cuda")
    monkeypatch.setattr(devices, "simulated", lambda: True)
    monkeypatch.setattr(devices, "why_no_cuda", lambda: None)
    monkeypatch.setattr(driver, "api", Driver())
    monkeypatch.setattr(reduce, "_local", threading.local())  # workspaces keep the driver that they began with
    yield driver.api
    gpu_dry.forget_loaded()


def row_of(table, k, columns):
    return list(np.ctypeslib.as_array((ctypes.c_int64 * columns).from_address(int(table) + 8 * columns * k)))
