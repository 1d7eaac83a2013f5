"""A profiling session: bytes per second of the step and of the reduction, beside a copy of as many bytes.

Run: python examples/profiling_session.py [PARAMETERS]

Every public call of gdgpu is an NVTX range (gdgpu.Optimizer.step, …) as soon as a profiler listens. On a GPU: the time
line, and what one kernel does.

    nsys profile --trace=cuda,nvtx --output=session python examples/profiling_session.py
    nsys stats --report cuda_gpu_kern_sum --report nvtx_sum session.nsys-rep
    ncu --kernel-name regex:update_momentum --launch-count 2 --set full python examples/profiling_session.py
"""

import os
import statistics
import sys
import time

import numpy as np

import gdgpu

xp = gdgpu.devices.resolve().xp
CORES = os.cpu_count()


def seconds(call, repeats=20):
    """Median time of a call; the first three compile, allocate and touch new pages, and do not count."""
    if xp is not np:
        from cupyx.profiler import benchmark

        return float(np.median(benchmark(call, n_repeat=repeats, n_warmup=3).gpu_times))
    taken = []
    for _ in range(3 + repeats):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[3:])


def copies(nbytes, pool):
    """A call that reads nbytes / 2 and writes as many, with all cores or with the GPU."""
    source, target = xp.ones(nbytes // 2, "uint8"), xp.zeros(nbytes // 2, "uint8")
    pieces = xp.array_split(target, CORES), xp.array_split(source, CORES)
    return lambda: list(pool.map(np.copyto, *pieces)) if xp is np else xp.copyto(target, source)


def main(parameters=20_000_000, samples=16):
    w, g, small = (xp.ones(parameters, "float32") for _ in range(3))
    G = xp.ones((samples, parameters // samples), "float32")
    step = gdgpu.Momentum(w, lr=1e-6).bind(g)  # reads w, g and the velocity, writes w and the velocity: 20 bytes each
    cases = {
        "momentum step": (step, 20 * parameters),
        "reduce_samples": (lambda: gdgpu.reduce_samples(G, out=small), G.nbytes),
    }
    return cases


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
