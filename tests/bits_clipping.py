"""Cases of bits_cases.py of the norms of samples, and of steps that clip them."""

import itertools

import numpy as np
from bits_arrays import special, to_device, unaligned
from references import DTYPES, samples, sums_of

import gdgpu
from gdgpu.kernels import clipped

MOVES = {
    "as they are": lambda G: G,
    "unaligned": unaligned,
    "reversed": lambda G: np.ascontiguousarray(G[::-1])[::-1],
    "padded": lambda G: np.pad(G, [(0, 0), (0, 8)])[:, : G.shape[1]],
}
SHAPES = {
    "narrow": (70, (3,)),
    "rows": (40, (300,)),
    "several": (35, (1, 200, 0, 17)),
    "one sample": (1, (129,)),
    "nothing": (0, (5, 3)),
    "no columns": (33, (0,)),
    "chunks": (3, (1025, 2048)),
}
ODD = np.nan, np.inf, -np.inf, 3e38, 0.0, 1e-30


def batch(B, columns, dtype, move=lambda G: G):
    """Tensors whose first samples are odd ones."""
    G = [
        samples((B, P), dtype, k, wide=False) if P else np.zeros((B, 0), samples((1,), dtype).dtype)
        for k, P in enumerate(columns)
    ]
    with np.errstate(over="ignore"):
        for n, value in enumerate(ODD[: max(0, B - 20)]):
            for g in G:
                g[n] = 0 if value == 0 else g[n]
                g[n, :1] = value
    return [to_device(move(g)) for g in G]


def run_norms(B, columns, dtype, move=lambda G: G):
    return [gdgpu.sample_norms(batch(B, columns, dtype, move)) for _ in range(2)]


def run_clipped(B, columns, dtypes, weighted=False, max_norm=4.0, nodes=1, move=lambda G: G):
    """Two steps; nodes: so many blocks are enough to read once on CUDA."""
    usual, clipped.CUDA_NODES = clipped.CUDA_NODES, nodes
    try:
        dtypes = [dtypes] * len(columns) if isinstance(dtypes, str) else dtypes
        G = [batch(B, (P,), d, move)[0] for P, d in zip(columns, dtypes, strict=True)]
        params = [to_device(special(P, d, k)) for k, (P, d) in enumerate(zip(columns, dtypes, strict=True))]
        weights = to_device(samples((B,), sums_of(dtypes[0]).name, 3)) if weighted else None
        optimizer, accumulator = gdgpu.Momentum(params, 0.1), gdgpu.Accumulator(params)
        for _ in range(2):
            optimizer.step_samples(G, weights, max_norm=max_norm)
        for rows in (slice(0, 7), slice(7, None)):
            accumulator.add([g[rows] for g in G], None if weights is None else weights[rows], max_norm)
        return [*params, *accumulator.result()]
    finally:
        clipped.CUDA_NODES = usual


def cases():
    for (name, (B, columns)), dtype in itertools.product(SHAPES.items(), DTYPES):
        yield f"norms/{name}/{dtype}", run_norms, (B, columns, dtype)
        yield f"clipped/{name}/{dtype}", run_clipped, (B, columns, dtype, dtype < "float32")
    for (name, move), dtype in itertools.product(MOVES.items(), DTYPES):
        yield f"norms/{name}/{dtype}", run_norms, (27, (40,), dtype, move)
        yield f"clipped/{name}/{dtype}", run_clipped, (35, (40, 9), dtype, True, 4.0, 1, move)
    for max_norm in (0, 1e-3, 1e30, np.inf):
        yield f"clipped/to {max_norm}", run_clipped, (35, (40,), "float32", False, max_norm)
    yield "norms/several blocks a sample", run_norms, (2, (33_000,), "bfloat16")
    yield "clipped/two reads", run_clipped, (40, (300, 3), "float32", True, 4.0, 1 << 20)
    yield "clipped/several dtypes", run_clipped, (40, (30, 3), ("float16", "float32"), True)
    yield "clipped/many rows", run_clipped, (1100, (5,), "float32")
