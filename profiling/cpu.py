"""Speed of the CPU kernels against NumPy and torch: python profiling/cpu.py [--json FILE] [--scale 0.1] [CASE …]

Each ratio is taken in one process, interleaved, from medians (harness.py); above 1: gdgpu is faster. Matrices are the
same memory for all; parameters, gradients and state are each library's own arrays.
"""

import argparse
import json
import platform
import sys
from importlib.metadata import version

import numpy as np
from harness import interleave, medians
from rich.console import Console
from rich.table import Table

import gdgpu
from gdgpu.kernels import threads

SHAPES = ((256, 200_000), (64, 1_000_000), (4096, 10_000), (65_536, 784))


def momentum(torch, size):
    """Heavy ball on `size` float32 parameters against torch.optim.SGD(fused=True, momentum=0.9)."""
    rng = np.random.default_rng(0)
    w, g = rng.standard_normal((2, size), np.float32)
    ours = gdgpu.Momentum(w.copy(), lr=1e-3)
    weight = torch.nn.Parameter(torch.from_numpy(w).clone())
    weight.grad = torch.from_numpy(g).clone()
    theirs = torch.optim.SGD([weight], lr=1e-3, momentum=0.9, fused=True)
    return 20 * size, {"gdgpu": lambda: ours.step(g), "torch": theirs.step}


def reduce(torch, shape):
    """Mean over the samples against NumPy's and torch's mean(0)."""
    G = np.random.default_rng(0).standard_normal(shape, np.float32)
    tensor, out = torch.from_numpy(G), np.empty(shape[1], np.float32)
    calls = {
        "gdgpu": lambda: gdgpu.reduce_samples(G, out=out),
        "numpy": lambda: G.mean(0),
        "torch": lambda: tensor.mean(0),
    }
    return G.nbytes, calls


def fused(torch, shape):
    """step_samples against torch's mean(0) followed by its fused step."""
    rng = np.random.default_rng(0)
    G, w = rng.standard_normal(shape, np.float32), rng.standard_normal(shape[1], np.float32)
    ours = gdgpu.Momentum(w.copy(), lr=1e-3)
    tensor, weight = torch.from_numpy(G), torch.nn.Parameter(torch.from_numpy(w).clone())
    theirs = torch.optim.SGD([weight], lr=1e-3, momentum=0.9, fused=True)

    def torch_step():
        weight.grad = tensor.mean(0)
        theirs.step()

    return G.nbytes + 16 * w.size, {"gdgpu": lambda: ours.step_samples(G), "torch": torch_step}


def cases(scale):
    yield "momentum/50e6", momentum, int(50e6 * scale)
    for rows, columns in SHAPES:
        shape = (max(1, int(rows * scale)), columns)
        yield f"reduce/{rows}x{columns}", reduce, shape
        yield f"fused/{rows}x{columns}", fused, shape


def bandwidth():
    """Bytes a second of reading 200 MB that no cache holds, on gdgpu's own threads: the most a reduction can do."""
    from numba import njit

    @njit(nogil=True, fastmath=True)
    def read(values, sums, scratch, first, last):
        for k in range(first, last):
            sums[k] = values[k * 65536 : (k + 1) * 65536].sum()

    values = np.ones(50_000_000, np.float32)
    items = len(values) // 65536
    sums = np.empty(items, np.float32)
    return values.nbytes, {"read": lambda: threads.run(read, (values, sums), items, values.nbytes)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="*", help="only cases whose name starts with this, e.g. reduce")
    parser.add_argument("--json", metavar="FILE", help="write the table here too")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the sizes, for a quick look")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender")
    arguments = parser.parse_args()
    try:
        import torch
    except ImportError:
        sys.exit('profiling/cpu.py: torch is missing: pip install -e ".[peers]"')
    torch.set_num_threads(threads.num_threads())
    nbytes, calls = bandwidth()
    read = nbytes / medians(interleave(calls, arguments.rounds))["read"]
    table = Table("case", "ms", "GB/s", "read alone GB/s", "vs numpy", "vs torch")
    rows = []
    for name, make, size in cases(arguments.scale):
        if arguments.case and not name.startswith(tuple(arguments.case)):
            continue
        nbytes, calls = make(torch, size)
        seconds = medians(interleave(calls, arguments.rounds))
        ours = seconds.pop("gdgpu")
        peers = {peer: value / ours for peer, value in seconds.items()}
        rows.append({"case": name, "median_ms": ours * 1e3, "gbs": nbytes / ours / 1e9, "peers": peers})
        ratios = [f"{peers[p]:.2f}" if p in peers else "" for p in ("numpy", "torch")]
        table.add_row(name, f"{ours * 1e3:.2f}", f"{nbytes / ours / 1e9:.1f}", f"{read / 1e9:.1f}", *ratios)
    Console().print(table)
    if arguments.json:
        versions = {p: version(p) for p in ("gdgpu", "numpy", "numba", "torch")} | {"python": platform.python_version()}
        report = {"threads": threads.num_threads(), "versions": versions, "read_gbs": read / 1e9, "rows": rows}
        with open(arguments.json, "w") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
