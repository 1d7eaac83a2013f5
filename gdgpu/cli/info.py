"""What gdgpu runs on: versions, processors, and why the GPU is not used if it is not."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .. import __version__
from ..devices import simulated, why_no_cuda, why_no_kernels
from ..kernels.backend import toolchain
from ..machine_code.tools import MissingToolError, tool_version

if TYPE_CHECKING:
    from ..devices import Device

_CUPY = ("cupy-cuda13x", "cupy-cuda12x", "cupy")


def rows() -> list[tuple[str, str]]:
    """(name, value) rows for `gdgpu info`."""
    reason = why_no_cuda()
    return [
        ("gdgpu", __version__),
        ("Python", f"{platform.python_version()}, {platform.system()} {platform.machine()}"),
        ("NumPy", _version("numpy")),
        ("Numba", _version("numba")),
        ("numba-cuda", _version("numba-cuda")),
        ("CuPy", _version(*_CUPY)),
        *_cuda_versions(),
        *_compilers(),
        ("CPU", f"{_cpu()}, {_threads()} threads"),
        *(_gpus() if not (reason or simulated()) else [("GPU", _absent(reason))]),
    ]


def describe(device: Device) -> str:
    """A Device in words, for the table of a run."""
    if device.name == "cpu":
        return f"cpu, {_threads()} threads"
    if simulated():
        return "cuda, simulated"
    runtime = device.xp.cuda.runtime
    return f"cuda, {runtime.getDeviceProperties(runtime.getDevice())['name'].decode()}"


def _absent(reason: str | None) -> str:
    return f"not used: {reason}" if reason else "simulated on the CPU (NUMBA_ENABLE_CUDASIM)"


def _version(*packages: str) -> str:
    return toolchain.version(*packages) or "not installed"


def _cuda_versions() -> list[tuple[str, str]]:
    try:
        from cupy.cuda import runtime

        found = runtime.runtimeGetVersion(), runtime.driverGetVersion()
    except Exception as error:  # a broken installation must not break `gdgpu info`
        return [("CUDA", f"none ({type(error).__name__})")]
    shown = [f"{number // 1000}.{number % 1000 // 10}" if number else "none" for number in found]
    return [("CUDA runtime", shown[0]), ("CUDA driver", shown[1])]


def _compilers() -> Iterator[tuple[str, str]]:
    """Those of CUDA kernels, which need no GPU, and what is broken about them."""
    yield from ((name, found or "not found") for name, found in toolchain.versions().items())
    try:
        yield "nvdisasm", tool_version("nvdisasm")
    except (OSError, MissingToolError) as error:
        yield "nvdisasm", f"none ({error})"
    yield "CUDA kernels", "simulated" if simulated() else why_no_kernels(compiles=True) or "can be compiled"


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _threads() -> int:
    from ..kernels.backend.threads import num_threads

    return num_threads()


def _gpus() -> Iterator[tuple[str, str]]:
    from cupy.cuda import runtime

    for device in range(runtime.getDeviceCount()):
        has = runtime.getDeviceProperties(device)
        capability = f"compute capability {has['major']}.{has['minor']}"
        yield (
            f"GPU {device}",
            f"{has['name'].decode()}, {has['totalGlobalMem'] / 2**30:.1f} GiB, {capability}",
        )
