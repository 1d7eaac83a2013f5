"""A profiling session: bytes per second of the step and of the reduction, beside a copy of as many bytes.

Run: python examples/profiling_session.py [PARAMETERS]; on a GPU also, where public calls show up as NVTX ranges:

    nsys profile --trace=cuda,nvtx --output=session python examples/profiling_session.py
    nsys stats --report cuda_gpu_kern_sum --report nvtx_sum session.nsys-rep
    ncu --kernel-name regex:update_momentum --launch-count 2 --set full python examples/profiling_session.py
"""

import os
import statistics
import sys
import timeit
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console
from rich.table import Column, Table

import gdgpu

xp = gdgpu.devices.resolve().xp  # cupy where it finds a GPU, else numpy
cores = ThreadPoolExecutor(os.cpu_count())


def seconds(call, repeats=20):
    """Median time of a call; the first three compile, allocate and touch new pages, and do not count."""
    if xp.__name__ == "cupy":
        from cupyx.profiler import benchmark

        return statistics.median(benchmark(call, n_repeat=repeats, n_warmup=3).gpu_times[0])
    return statistics.median(timeit.repeat(call, number=1, repeat=3 + repeats)[3:])


def copy(nbytes):
    """A call that reads nbytes / 2 and writes as many. A CPU reads what it overwrites, so work in place can beat it."""
    target, source = (xp.full(nbytes // 2, value, "uint8") for value in (0, 1))
    if xp.__name__ == "cupy":
        return lambda: xp.copyto(target, source)
    pieces = [xp.array_split(array, os.cpu_count()) for array in (target, source)]
    return lambda: list(cores.map(xp.copyto, *pieces))


def main(parameters=20_000_000, samples=16):
    w, g, G = (xp.ones(shape, "float32") for shape in (parameters, parameters, (samples, parameters // samples)))
    mean = xp.empty_like(G[0])
    step = gdgpu.Momentum(w, lr=1e-6).bind(g)  # reads w, g and the velocity, writes w and the velocity: 20 bytes each
    table = Table("case", *(Column(header, justify="right") for header in ("MB", "ms", "GB/s", "of a copy")))
    for name, call, size in (
        ("momentum step", step, 20 * parameters),
        ("reduce_samples", lambda: gdgpu.reduce_samples(G, out=mean), G.nbytes + mean.nbytes),
    ):
        taken, copied = seconds(call), seconds(copy(size))
        measured = f"{1e3 * taken:.3g}", f"{size / taken / 1e9:.3g}", f"{copied / taken:.0%}"
        table.add_row(name, f"{size / 1e6:.4g}", *measured)
    Console().print(table)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
