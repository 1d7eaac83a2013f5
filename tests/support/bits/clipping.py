"""Cases of the norms of samples, and of steps that clip them."""

import itertools

import numpy as np

import gdgpu
from gdgpu.kernels.samples import clip_reduce
from support.bits.arrays import reversed_rows, special, to_device, unaligned
from support.references import DTYPES, samples, sums_of

MOVES = {
    "unaligned": unaligned,
    "reversed": reversed_rows,
    "padded": lambda G: np.pad(G, [(0, 0), (0, 8)])[:, : G.shape[1]],
}
SHAPES = {  # a simulated block takes a second or two
    "narrow": (9, (3,)),
    "rows": (4, (300,)),
    "several": (6, (1, 200, 0, 17)),
    "one sample": (1, (129,)),
    "nothing": (0, (5, 3)),
    "no columns": (3, (0,)),
    "chunks": (1, (1025, 2048)),
}
ODD = np.nan, np.inf, -np.inf, 3e38, 0.0, 1e-30


def batch(B, columns, dtype, move=lambda G: G):
    """Tensors whose first samples are odd ones."""
    G = [
        samples((B, P), dtype, k, wide=False) if P else np.zeros((B, 0), samples((1,), dtype).dtype)
        for k, P in enumerate(columns)
    ]
    with np.errstate(over="ignore"):
        for n, value in enumerate(ODD[: B - 3 if B > 8 else 0]):
            for g in G:
                g[n] = 0 if value == 0 else g[n]
                g[n, :1] = value
    return [to_device(move(g)) for g in G]


def run_norms(B, columns, dtype, move=lambda G: G):
    return [gdgpu.sample_norms(batch(B, columns, dtype, move))]


def run_clipped(B, columns, dtypes, weighted=False, max_norm=4.0, nodes=1, move=lambda G: G):
    """A step; nodes: so many blocks are enough to read once on CUDA."""
    usual, clip_reduce.CUDA_NODES = clip_reduce.CUDA_NODES, nodes
    try:
        dtypes = [dtypes] * len(columns) if isinstance(dtypes, str) else dtypes
        G = [batch(B, (P,), d, move)[0] for P, d in zip(columns, dtypes, strict=True)]
        params = [to_device(special(P, d, k)) for k, (P, d) in enumerate(zip(columns, dtypes, strict=True))]
        weights = to_device(samples((B,), sums_of(dtypes[0]).name, 3)) if weighted else None
        gdgpu.Momentum(params, 0.1).step_samples(G, weights, max_norm=max_norm)
        return params
    finally:
        clip_reduce.CUDA_NODES = usual


def run_pieces(B, cut, columns, dtype):
    G = [batch(B, (P,), dtype)[0] for P in columns]
    accumulator = gdgpu.Accumulator([g[0] for g in G])
    for rows in (slice(0, cut), slice(cut, None)):
        accumulator.add([g[rows] for g in G], max_norm=4.0)
    return accumulator.result()


def cases():
    for name, (B, columns) in SHAPES.items():
        for dtype in DTYPES if name == "several" else ("float32",):
            yield f"norms/{name}/{dtype}", run_norms, (B, columns, dtype)
            yield f"clipped/{name}/{dtype}", run_clipped, (B, columns, dtype, dtype < "float32")
    for (name, move), dtype in itertools.product(MOVES.items(), ("bfloat16", "float32")):
        yield f"norms/{name}/{dtype}", run_norms, (3, (40,), dtype, move)
        yield f"clipped/{name}/{dtype}", run_clipped, (4, (40, 9), dtype, True, 4.0, 1, move)
    for max_norm in (0, 1e30, np.inf):
        yield f"clipped/to {max_norm}", run_clipped, (12, (40,), "float32", False, max_norm)
    yield "norms/several blocks a sample", run_norms, (1, (33_000,), "bfloat16")
    yield "clipped/two nodes", run_clipped, (35, (5, 17), "float32")
    yield "clipped/two reads", run_clipped, (6, (300, 3), "float32", True, 4.0, 1 << 20)
    yield "clipped/several dtypes", run_clipped, (6, (30, 3), ("float16", "float32"), True)
    yield "clipped/pieces", run_pieces, (36, 32, (9,), "float16")
