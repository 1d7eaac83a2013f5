"""Cases for statistics and robust means of samples."""

import itertools

import numpy as np

import gdgpu
from gdgpu.kernels.samples import order_statistics
from support.bits.arrays import SPECIAL, padded, to_device, unaligned
from support.references import DTYPES, samples


def troubled(B, P, dtype):
    """Samples with columns of ties, zeros of both signs, infinities, and every special value."""
    G = samples((B, P), dtype)
    if P > 5:
        G[:, 0] = G[0, 0]
        G[::2, 1], G[1::3, 1] = 0.0, -0.0
        G[:, 2] = np.round(G[:, 2])
        G[: B // 2, 3], G[B // 2 :, 3] = -np.inf, np.inf
        with np.errstate(over="ignore"):
            G[: len(SPECIAL), 4] = np.array(SPECIAL).astype(G.dtype)[:B]
            G[: len(SPECIAL) - 1, 5] = np.array(SPECIAL[:-1]).astype(G.dtype)[:B]
    return G


def run_moments(dtype, shapes, move=lambda G: G):
    G = [to_device(move(samples(shape, dtype, k))) for k, shape in enumerate(shapes)]
    means, variances, scale = gdgpu.sample_statistics(G)
    return [*means, *variances, scale]


def run_ranks(name, arguments, dtype, B, P, cuda_resident=order_statistics.CUDA_RESIDENT):
    """Held in shared memory, on CUDA, where so many bytes suffice."""
    usual, order_statistics.CUDA_RESIDENT = order_statistics.CUDA_RESIDENT, cuda_resident
    try:
        return [getattr(gdgpu, name)(to_device(unaligned(troubled(B, P, dtype))), *arguments)]
    finally:
        order_statistics.CUDA_RESIDENT = usual


RANKS = {"median_samples": (), "trimmed_mean_samples": (0.3,)}


def cases():
    for dtype in DTYPES:
        yield f"statistics/{dtype}", run_moments, (dtype, ((33, 40), (33, 0), (33, 3)))
        yield f"statistics/{dtype}/padded", run_moments, (dtype, ((35, 19),), padded)
    for B in (0, 1, 2, 64):
        yield f"statistics/{B} samples", run_moments, ("float32", ((B, 5), (B, 8)))
    yield "statistics/two segments", run_moments, ("bfloat16", ((1030, 9),))
    yield "statistics/three levels", run_moments, ("float32", ((33_000, 1),))
    yield "statistics/many chunks", run_moments, ("float32", ((3, 33_000), (3, 1500)))
    for (name, arguments), dtype in itertools.product(RANKS.items(), DTYPES):
        yield f"{name}/{dtype}", run_ranks, (name, arguments, dtype, 37, 11)
        yield f"{name}/{dtype}/read again", run_ranks, (name, arguments, dtype, 40, 6, 0)
    for name, arguments in RANKS.items():
        yield f"{name}/1 sample", run_ranks, (name, arguments, "float32", 1, 3)
        yield f"{name}/two segments", run_ranks, (name, arguments, "bfloat16", 1060, 1)
