"""The smoke run's checks, executed: in the simulator, with as much of CuPy as they use on top of NumPy."""

import json

import pytest
from gpu import hazards
from gpu import smoke as gpu_smoke

from support import ROOT
from support.processes import forked

CUPY = """
import time
from types import SimpleNamespace

import numpy as np


class Device:
    id = 0
    compute_capability = "90"
    mem_info = (1 << 34, 1 << 34)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def synchronize(self):
        pass


class ndarray(np.ndarray):
    device = Device()

    def get(self):
        return np.array(self)

    @property
    def data(self):
        def copy(source, nbytes):
            np.copyto(self, source.array)

        return SimpleNamespace(array=self, copy_from_device_async=copy)


class Event:
    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        pass


class RawKernel:
    def __init__(self, text, name):
        assert f"void {name}(" in text

    def __call__(self, blocks, threads, arguments):
        time.sleep(1e-4)


def new(maker):
    return lambda *how: maker(*how).view(ndarray)


asarray, empty, zeros, ones, full = map(new, (np.array, np.empty, np.zeros, np.ones, np.full))


def get_default_memory_pool():
    return SimpleNamespace(free_all_blocks=lambda: None)


HAS = {"name": b"Some GPU 9000", "major": 9, "minor": 0, "multiProcessorCount": 1}
HAS |= {"totalGlobalMem": 2**30, "l2CacheSize": 2**20}
runtime = SimpleNamespace(
    getDevice=lambda: 0,
    getDeviceProperties=lambda device: HAS,
    driverGetVersion=lambda: 13000,
    runtimeGetVersion=lambda: 13000,
    getDeviceCount=lambda: 1,
)
cuda = SimpleNamespace(
    Device=Device,
    Event=Event,
    runtime=runtime,
    get_current_stream=lambda: SimpleNamespace(ptr=0, is_capturing=lambda: False),
    get_elapsed_time=lambda start, end: 1e3 * (end.at - start.at),
)
"""

BEGINNING = """
import sys
sys.path[:0] = [{profiling!r}, {stub!r}]
import cupy, gdgpu
from gpu import hazards, smoke
from gdgpu import devices
import gdgpu.kernels.backend.cuda
devices.why_no_device = devices.why_no_cuda = lambda: None
hazards.ROWS, hazards.TURNS = 1100, 2
smoke.ROWS, smoke.SIZE, smoke.COUNTS, smoke.TALL, smoke.GIB = 1100, 300, (1, 2), (40, 5), 1 << 20
"""
BITS = ("step_has_the_bits", "reduction_has_the_bits")
HAZARDS = ("fences_over_many_launches", "thread_without_a_context", "counters_are_zero")  # others need streams
SEEN = {  # what breaks a hazard's promise, and what it then says
    "fences_over_many_launches": ("gdgpu.reduce_samples = wrong", "numbers have other"),
    "thread_without_a_context": ("gdgpu.optimizers.bound.Bound.__call__ = refuse", "as the first call of a thread"),
    "counters_are_zero": ("buffers.Counters.get = counted", "counters are not 0"),
}
BREAKING = """
import threading
import gdgpu, gdgpu.optimizers.bound
from gdgpu.kernels.backend import buffers
sums, call, get = gdgpu.reduce_samples, gdgpu.optimizers.bound.Bound.__call__, buffers.Counters.get
def wrong(G, out=None):
    result = sums(G, out=out)
    if out is not None:
        out[1] += 1
    return result
def refuse(self):
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("invalid context")
    return call(self)
def counted(self, count):
    address = get(self, count + 1)
    self.array[-1] = 1
    return address
"""


OTHER_BITS = "import numpy\ndevices.on_host = lambda array: numpy.nextafter(array, numpy.float32(9))"
MACHINE = ("machine", "host_microseconds", "memory_gbs")
SCRIPTS = {  # checks, and what is done before them
    "bits": (BITS, ""),
    "hazards": (HAZARDS, ""),
    **{f"broken {name}": ([name], BREAKING + change) for name, (change, _) in SEEN.items()},
    **{f"other {name}": ([name], OTHER_BITS) for name in BITS},
    "machine": (MACHINE, "devices.simulated = lambda: False"),
    "simulator": (["machine", "memory_gbs"], ""),
}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """smoke(name of a script, status): what the checks say, in a process of their own that ends so."""
    folder = tmp_path_factory.mktemp("smoke")
    (folder / "cupy").mkdir()
    (folder / "cupy" / "__init__.py").write_text(CUPY)
    beginning = BEGINNING.format(profiling=str(ROOT / "profiling"), stub=str(folder))
    scripts = {
        name: f"{change}\nsys.exit(smoke.serve({list(names)!r}, smoke.answer))"
        for name, (names, change) in SCRIPTS.items()
    }
    done = forked(beginning, scripts, folder, NUMBA_ENABLE_CUDASIM="1", GDGPU_DEVICE="cuda")

    def said(name, status=0):
        ended, out = done[name]
        assert ended == status, out
        return {found["case"]: found for found in map(json.loads, out.splitlines())}

    return said


@pytest.mark.parametrize(("script", "names"), [("bits", BITS), ("hazards", HAZARDS)])
def test_bits_and_hazards_that_a_simulator_knows(script, names, smoke):
    found = smoke(script)
    assert list(found) == list(names) and all(check.get("said", 0) is None for check in found.values())


@pytest.mark.parametrize("name", SEEN)
def test_hazards_are_seen(name, smoke):
    assert SEEN[name][1] in smoke(f"broken {name}", status=1)[name]["error"]


@pytest.mark.parametrize("name", BITS)
def test_other_bits_are_said(name, smoke):
    assert "numbers have other bits" in smoke(f"other {name}", status=1)[name]["error"]


def test_the_machine_and_its_speed(smoke):
    found = smoke("machine")
    assert found["machine"]["said"]["device"] == "Some GPU 9000"
    assert found["machine"]["said"]["properties"]["compute_capability"] == "9.0"
    assert {"python", "numpy", "numba"} <= found["machine"]["said"]["versions"].keys()
    assert {"Momentum x 2", "Adam x 1", "reduce_samples", "with device"} <= found["host_microseconds"]["said"].keys()
    assert all(value > 0 for value in found["host_microseconds"]["said"].values())
    assert found["memory_gbs"]["said"].keys() == {"copy", "read"}


def test_a_simulator_is_no_gpu(smoke):
    found = smoke("simulator", status=1)
    assert found == {
        "machine": {
            "case": "machine",
            "error": "NUMBA_ENABLE_CUDASIM is set: a simulator is no GPU",
            "no_gpu": True,
        }
    }


def test_every_check_says_what_it_is():
    assert set(hazards.HAZARDS) < set(gpu_smoke.CHECKS) and set(gpu_smoke.NEEDED) < set(gpu_smoke.CHECKS)
    assert next(iter(gpu_smoke.CHECKS)) == "machine" and all(check.__doc__ for check in gpu_smoke.CHECKS.values())
