"""The CPU's kernels and the CUDA kernels in numba's simulator give identical bits, for any number of threads."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda has the simulator: install gdgpu[test]")
import bits_cases
from references import assert_same_bits


@pytest.fixture(scope="module", autouse=True)
def simulation(tmp_path_factory):
    """The simulator's process, which runs beside the tests of the CPU, and the file that it writes."""
    path = tmp_path_factory.mktemp("bits") / "simulated.npz"
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "GDGPU_DEVICE": "cuda"}
    command = [sys.executable, "-W", "ignore", Path(bits_cases.__file__), path]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    yield process, path
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def simulated(simulation):
    process, path = simulation
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    with np.load(path) as held:
        assert held["device"] == "cuda"
        return dict(held)


@pytest.fixture(scope="module")
def on_one_thread():
    """The answers of this process's CPU on one thread, kept for the second comparison."""
    return {}


@pytest.fixture
def on_cpu(monkeypatch, use_threads):
    monkeypatch.delenv("GDGPU_DEVICE", raising=False)
    assert bits_cases.device() == "cpu"

    def run(name, threads):
        use_threads(threads)
        return bits_cases.answers(name)

    return run


@pytest.mark.parametrize("name", bits_cases.CASES)
def test_two_threads_and_one(name, on_cpu, on_one_thread):
    on_one_thread[name] = on_cpu(name, 1)
    for one, two in zip(on_one_thread[name], on_cpu(name, 2), strict=True):
        assert_same_bits(two, one)


@pytest.mark.parametrize("name", bits_cases.CASES)
def test_simulator_and_cpu(name, simulated, on_cpu, on_one_thread):
    assert f"{name}:error" not in simulated, simulated[f"{name}:error"]
    expected = on_one_thread.get(name) or on_cpu(name, 1)
    for k, array in enumerate(expected):
        assert_same_bits(simulated[f"{name}:{k}"], array)
    assert f"{name}:{len(expected)}" not in simulated


def test_every_rule_is_among_the_cases():
    from gdgpu.kernels.rules import RULES

    for rule in RULES:
        for family in ("update", "fused"):
            assert any(name.startswith(f"{family}/{rule}") for name in bits_cases.CASES)
