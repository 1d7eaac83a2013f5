"""Speed of the CPU kernels against NumPy and torch: python profiling/cpu.py [--json FILE] [CASE …]

Each ratio is taken in one process, interleaved, from medians (harness.py); above 1: gdgpu is faster. Matrices are the
same memory for all; parameters, gradients and state are each library's own arrays. How fast memory is depends on where
the system puts an array, so every case is repeated on fresh arrays: shown are the median and the extremes.
"""

import argparse
import json
import platform
import statistics
import sys
from importlib.metadata import version

import numpy as np
from harness import interleave, medians
from rich.console import Console
from rich.progress import track
from rich.table import Table

import gdgpu
from gdgpu.kernels import threads

SHAPES = ((256, 200_000), (64, 1_000_000), (4096, 10_000), (65_536, 784))


def momentum(torch, read, size):
    """Heavy ball on `size` float32 parameters against torch.optim.SGD(fused=True, momentum=0.9)."""
    w, g = np.random.default_rng(0).standard_normal((2, size), np.float32)
    ours = gdgpu.Momentum(w.copy(), lr=1e-3)
    theirs = torch_momentum(torch, w)
    theirs.param_groups[0]["params"][0].grad = torch.from_numpy(g).clone()
    return 20 * size, {"gdgpu": lambda: ours.step(g), "torch": theirs.step}


def reduce(torch, read, shape):
    """Mean over the samples against NumPy's and torch's mean(0)."""
    G = np.random.default_rng(0).standard_normal(shape, np.float32)
    tensor, out = torch.from_numpy(G), np.empty(shape[1], np.float32)
    calls = {
        "gdgpu": lambda: gdgpu.reduce_samples(G, out=out),
        "numpy": lambda: G.mean(0),
        "torch": lambda: tensor.mean(0),
        "read": lambda: read(G),
    }
    return G.nbytes, calls


def fused(torch, read, shape):
    """step_samples against torch's mean(0) followed by its fused step."""
    rng = np.random.default_rng(0)
    G, w = rng.standard_normal(shape, np.float32), rng.standard_normal(shape[1], np.float32)
    ours, theirs = gdgpu.Momentum(w.copy(), lr=1e-3), torch_momentum(torch, w)
    tensor, weight = torch.from_numpy(G), theirs.param_groups[0]["params"][0]

    def torch_step():
        weight.grad = tensor.mean(0)
        theirs.step()

    calls = {"gdgpu": lambda: ours.step_samples(G), "torch": torch_step, "read": lambda: read(G)}
    return G.nbytes + 16 * w.size, calls


def torch_momentum(torch, w):
    return torch.optim.SGD([torch.nn.Parameter(torch.from_numpy(w).clone())], lr=1e-3, momentum=0.9, fused=True)


def cases(scale):
    yield "momentum/50e6", momentum, int(50e6 * scale)
    for rows, columns in SHAPES:
        shape = (max(1, int(rows * scale)), columns)
        yield f"reduce/{rows}x{columns}", reduce, shape
        yield f"fused/{rows}x{columns}", fused, shape


def reader():
    """read(G): adds up all of G in whatever order is fastest. No reduction can be faster than that."""
    from numba import njit

    @njit(nogil=True, fastmath=True)
    def add_up(values, sums, scratch, first, last):
        for k in range(first, last):
            sums[k] = values[k * 65536 : (k + 1) * 65536].sum()

    def read(G):
        items = -(-G.size // 65536)
        threads.run(add_up, (G.ravel(), np.empty(items, np.float32)), items, G.nbytes)

    return read


def measure(torch, read, make, size, repeats, rounds):
    """One row: medians over the repeats, and the extremes of the ratios."""
    milliseconds, rates, ratios = [], [], {}
    for _ in range(repeats):
        nbytes, calls = make(torch, read, size)
        seconds = medians(interleave(calls, rounds))
        ours = seconds.pop("gdgpu")
        milliseconds.append(ours * 1e3)
        rates.append(nbytes / ours / 1e9)
        for peer, other in seconds.items():
            ratios.setdefault(peer, []).append(other / ours)
    peers = {peer: {"median": statistics.median(r), "min": min(r), "max": max(r)} for peer, r in ratios.items()}
    return {"median_ms": statistics.median(milliseconds), "gbs": statistics.median(rates), "peers": peers}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="*", help="only cases whose name starts with this, e.g. reduce")
    parser.add_argument("--json", metavar="FILE", help="write the table here too")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the sizes, for a quick look")
    parser.add_argument("--repeats", type=int, default=5, help="times each case is measured, on fresh arrays")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender in a repeat")
    arguments = parser.parse_args()
    try:
        import torch
    except ImportError:
        sys.exit('profiling/cpu.py: torch is missing: pip install -e ".[peers]"')
    torch.set_num_threads(threads.num_threads())
    chosen = [c for c in cases(arguments.scale) if not arguments.case or c[0].startswith(tuple(arguments.case))]
    if not chosen:
        sys.exit(f"profiling/cpu.py: no case begins with {' or '.join(arguments.case)}")
    table, rows, read = Table("case", "ms", "GB/s", "vs numpy", "vs torch", "vs reading alone"), [], reader()
    for name, make, size in track(chosen, "measuring", console=Console(stderr=True), transient=True):
        row = {"case": name} | measure(torch, read, make, size, arguments.repeats, arguments.rounds)
        rows.append(row)
        shown = [row["peers"].get(peer) for peer in ("numpy", "torch", "read")]
        ratios = [f"{r['median']:.2f} ({r['min']:.2f} to {r['max']:.2f})" if r else "" for r in shown]
        table.add_row(name, f"{row['median_ms']:.2f}", f"{row['gbs']:.1f}", *ratios)
    Console().print(table)
    if arguments.json:
        versions = {p: version(p) for p in ("gdgpu", "numpy", "numba", "torch")} | {"python": platform.python_version()}
        report = {"threads": threads.num_threads(), "versions": versions, "rows": rows}
        with open(arguments.json, "w") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
