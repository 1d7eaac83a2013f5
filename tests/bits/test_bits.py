"""The CPU's kernels, for any number of threads, and the CUDA kernels, in the simulator and on a GPU: identical bits."""

import ctypes
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda has the simulator: install gdgpu[test]")
from gdgpu import devices
from support import bits
from support.bits import arrays
from support.covering import usual
from support.references import DTYPES, assert_same_bits, samples

NO_GPU = "the simulator is in its place" if devices.simulated() else devices.why_no_cuda()
ENVIRONMENTS = {"simulator": {"NUMBA_ENABLE_CUDASIM": "1"}} | ({} if NO_GPU else {"gpu": {"NUMBA_ENABLE_CUDASIM": "0"}})
OTHERS = "test_other_devices_and_cpu"
SECONDS = {"simulator": 900, "gpu": 900}  # after the CPU's; on a GPU it is compiling


@pytest.fixture(scope="module", autouse=True)
def processes(tmp_path_factory, request):
    """The processes of the other devices, which run beside the tests of the CPU, and the files that they write."""
    started = {}
    chosen = [i.callspec.params for i in request.session.items if getattr(i, "originalname", "") == OTHERS]
    for name, environment in ENVIRONMENTS.items():
        names = [params["name"] for params in chosen if params["device"] == name]
        if not names:
            continue
        path = tmp_path_factory.mktemp("bits") / f"{name}.npz"
        command = [sys.executable, "-W", "ignore", Path(bits.__file__).parent, path, *names]
        environment = os.environ | {"GDGPU_DEVICE": "cuda"} | environment
        started[name] = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True), path
    yield started
    for process, _ in started.values():
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def answers_of(processes):
    """answers_of(name): all that the process of a device has found."""

    @cache
    def load(name):
        process, path = processes[name]
        _, errors = process.communicate(timeout=SECONDS[name])
        assert process.returncode == 0, errors
        with np.load(path) as stored:
            assert stored["device"] == "cuda"
            return dict(stored)

    return load


@pytest.fixture(scope="module")
def on_one_thread():
    """The answers of this process's CPU on one thread, kept for the second comparison."""
    return {}


@pytest.fixture
def on_cpu(monkeypatch, use_threads):
    monkeypatch.delenv("GDGPU_DEVICE", raising=False)
    assert bits.device() == "cpu"

    def run(name, threads):
        use_threads(threads)
        return bits.answers(name)

    return run


every_case = pytest.mark.parametrize("name", usual(bits.CASES, bits.usual()))


@every_case
def test_two_threads_and_one(name, on_cpu, on_one_thread):
    on_one_thread[name] = on_cpu(name, 1)
    for one, two in zip(on_one_thread[name], on_cpu(name, 2), strict=True):
        assert_same_bits(two, one)


@pytest.mark.parametrize(
    "device",
    ["simulator", pytest.param("gpu", marks=pytest.mark.skipif(NO_GPU is not None, reason=f"no GPU: {NO_GPU}"))],
)
@every_case
def test_other_devices_and_cpu(name, device, answers_of, on_cpu, on_one_thread):
    found = answers_of(device)
    assert f"{name}:error" not in found, found[f"{name}:error"]
    expected = on_one_thread.get(name) or on_cpu(name, 1)
    for k, array in enumerate(expected):
        assert_same_bits(found[f"{name}:{k}"], array)
    assert f"{name}:{len(expected)}" not in found


def test_every_rule_is_among_the_cases():
    from gdgpu.kernels.rules.table import RULES

    for name, rule in RULES.items():
        for family in ("norms",) if rule.norm else ("update", "fused"):
            assert any(case.startswith(f"{family}/{name}") for case in bits.CASES)


class OnGpu(np.ndarray):
    """What to_device needs of a CuPy array: data, where a MemoryPointer is a number here, and set."""

    @property
    def data(self):
        return self.ctypes.data

    def set(self, host):
        self[...] = host


def zeros_on_gpu(n, dtype):
    raw = np.zeros(n + 512, dtype)
    return raw[-raw.ctypes.data % 512 :][:n].view(OnGpu)


def array_on_gpu(shape, dtype, memptr, strides):
    steps = [(n - 1) * step for n, step in zip(shape, strides, strict=True)]
    low = sum(step for step in steps if step < 0)
    size = sum(map(abs, steps)) + dtype.itemsize
    memory = np.frombuffer((ctypes.c_char * size).from_address(memptr + low), np.uint8).copy()
    array = np.ndarray(shape, dtype, memory, -low, strides)
    return array, memptr


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("move", bits.MOVES)
def test_arrays_keep_their_nature_on_the_way_to_a_gpu(move, dtype, monkeypatch):
    cupy = SimpleNamespace(zeros=zeros_on_gpu, ndarray=array_on_gpu)
    monkeypatch.setattr(arrays, "target", lambda: devices.Device("cuda", cupy))
    array = bits.MOVES[move](samples((7, 5), dtype))
    copy, address = arrays.to_device(array)
    assert copy.strides == array.strides and address % 16 == array.ctypes.data % 16
    assert not np.shares_memory(copy, array)
    assert_same_bits(copy, array)
