"""The first half minute on a GPU: python profiling/gpu/smoke.py [CHECK …]

A JSON line a check as soon as it is known: what the machine has, whether a kernel compiles there, runs and has the
CPU's bits, what only hardware shows, the host's microseconds, the memory's speed. It leaves behind a check that fails,
since that may have cost the GPU: name those that are left to go on.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gdgpu import devices
from gdgpu.kernels.backend import toolchain

sys.path[0] = str(Path(__file__).parents[1])  # the folder of gpu/
from gpu import hazards  # noqa: E402
from gpu.hazards import COLUMNS, ROWS, same  # noqa: E402
from gpu.process import serve  # noqa: E402

SIZE = 70_001
COUNTS = (1, 1000)  # of tensors in a step
TALL = (65536, 784)
GIB = 1 << 30
PACKAGES = ("cuda-bindings", "cuda-core", "cuda-pathfinder", "ml-dtypes", "setuptools")  # besides a report's


class NoGpuError(RuntimeError):
    """There is nothing to check here."""


def machine() -> dict:
    """What the driver says of the device; versions of everything."""
    if devices.simulated():
        raise NoGpuError("NUMBA_ENABLE_CUDASIM is set: a simulator is no GPU")
    if reason := devices.why_no_device():
        raise NoGpuError(reason)
    if reason := devices.why_no_cuda():
        raise RuntimeError(reason)
    import cupy
    import harness

    runtime = cupy.cuda.runtime
    has = runtime.getDeviceProperties(runtime.getDevice())
    properties = {
        "compute_capability": f"{has['major']}.{has['minor']}",
        "multiprocessors": has["multiProcessorCount"],
        "memory_gib": round(has["totalGlobalMem"] / 2**30, 1),
        "l2_mib": round(has["l2CacheSize"] / 2**20, 1),
        "driver": runtime.driverGetVersion(),
        "runtime": runtime.runtimeGetVersion(),
        "devices": runtime.getDeviceCount(),
        "cpus": os.cpu_count(),
    }
    versions = harness.versions(PACKAGES) | toolchain.versions()
    return {"device": has["name"].decode(), "properties": properties, "versions": versions}


def compiles_here() -> str:
    """With this machine's toolchain, past every cache."""
    from gdgpu.kernels import catalogue

    kernel = next(row.kernel for row in catalogue.ROWS if row.label == "momentum.float32")
    code, said = kernel.link(_capability())
    return f"{len(code)} bytes, {next(line.strip() for line in said.splitlines() if 'Used' in line)}"


def step_has_the_bits() -> None:
    """Two steps of a tensor whose tail is no whole vector."""
    import cupy

    import gdgpu

    w, g = np.random.default_rng(0).standard_normal((2, SIZE), np.float32)
    ours, host = cupy.asarray(w), w.copy()
    for array, gradient in ((ours, cupy.asarray(g)), (host, g)):
        optimizer = gdgpu.Momentum(array, lr=0.1)
        optimizer.step(gradient)
        optimizer.step(gradient)
    same(devices.on_host(ours), host, "two steps")


def reduction_has_the_bits() -> None:
    """A sum through three levels of the tree."""
    import cupy

    import gdgpu

    G = np.random.default_rng(0).standard_normal((ROWS, COLUMNS), np.float32)
    same(devices.on_host(gdgpu.reduce_samples(cupy.asarray(G))), gdgpu.reduce_samples(G), "a sum")


def host_microseconds() -> dict:
    """The median time until a call returns."""
    import cupy
    import harness

    import gdgpu

    clock, found = harness.clock("cuda"), {}

    def timed(name, call):
        clock.warm([call])
        found[name] = round(clock.host_seconds([call]) * 1e6, 2)

    for make in (gdgpu.Momentum, gdgpu.Adam):
        for count in COUNTS:
            w, g = ([cupy.full(256, value, np.float32) for _ in range(count)] for value in (0, 1))
            timed(f"{make.__name__} x {count}", make(w, lr=1e-3).bind(g))
    A, out = cupy.ones(TALL, np.float32), cupy.empty(TALL[1], np.float32)
    timed("reduce_samples", lambda: gdgpu.reduce_samples(A, reduction="sum", out=out))
    timed("sample_norms", lambda: gdgpu.sample_norms(A))
    timed("sample_statistics", lambda: gdgpu.sample_statistics(A))
    timed("the current stream", lambda: cupy.cuda.get_current_stream().ptr)
    timed("with device", lambda: A.device.__enter__().__exit__(None, None, None))
    return found


READ = """
extern "C" __global__ void read(const float4* x, long long n, float* out) {
    float4 s = {0, 0, 0, 0};
    long long threads = (long long)gridDim.x * blockDim.x;
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += threads) {
        float4 v = x[i];
        s.x += v.x; s.y += v.y; s.z += v.z; s.w += v.w;
    }
    if (s.x + s.y + s.z + s.w == -1.f) out[0] = 1;
}
"""


def memory_gbs() -> dict:
    """GB/s of a copy, and of only reading, which is the roof of a reduction."""
    import cupy
    import harness

    clock, nbytes = harness.clock("cuda"), GIB
    source, out = cupy.ones(nbytes // 4, np.float32), cupy.zeros(1, np.float32)
    kernel = cupy.RawKernel(READ, "read")
    blocks = 8 * cupy.cuda.runtime.getDeviceProperties(source.device.id)["multiProcessorCount"]
    calls = {
        "copy": [clock.copy(nbytes)],
        "read": [lambda: kernel((blocks,), (256,), (source, np.int64(nbytes // 16), out))],
    }
    for each in calls.values():
        clock.warm(each)
    turns = harness.interleave(clock, calls)
    return {name: round(nbytes / float(np.median(np.concatenate(taken))) / 1e9, 1) for name, taken in turns.items()}


CHECKS: dict[str, Callable] = {
    function.__name__: function for function in (machine, compiles_here, step_has_the_bits, reduction_has_the_bits)
}
CHECKS |= hazards.HAZARDS
CHECKS |= {function.__name__: function for function in (host_microseconds, memory_gbs)}
NEEDED = ("machine", "step_has_the_bits", "reduction_has_the_bits")  # without these nothing else is worth starting


def answer(name: str) -> dict:
    """What a check found, for the report."""
    start = time.monotonic()
    try:
        return {"said": CHECKS[name](), "seconds": round(time.monotonic() - start, 2)}
    except NoGpuError as error:
        return {"error": str(error), "no_gpu": True}


def _capability() -> tuple[int, int]:
    from gdgpu.kernels.backend import driver

    return driver.driver().capability()


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:] or CHECKS, answer))
