"""Norms of samples and the factors that clip them, by the text of the design."""

import math

import numpy as np

from support.references import CHUNK, WIDTH, fma, longest_path, samples, sums_of, tree

MIXED = ("float16", "bfloat16", "float32", "bfloat16")  # dtypes with one accumulator


def batch(B, columns, dtypes, seed=0):
    """A matrix for each tensor. dtypes: one, or one each."""
    dtypes = [dtypes] * len(columns) if isinstance(dtypes, str) else dtypes
    return [samples((B, P), d, seed + k) for k, (P, d) in enumerate(zip(columns, dtypes, strict=True))]


def squares_of(G):
    """Sums of squares of the rows: in chunks of 1024, 128 lanes by fma, lanes by halving; then chunks by the tree."""
    (B, P), sums = G.shape, sums_of(G.dtype.name)
    rows = -(-min(P, CHUNK) // WIDTH)  # of lanes that a chunk has
    chunks = np.zeros((B, -(-P // CHUNK), rows, WIDTH), sums)
    chunks.reshape(B, math.prod(chunks.shape[1:]))[:, :P] = G
    lanes = np.zeros((B, chunks.shape[1], WIDTH), sums)
    for k in range(rows):
        lanes = fma(chunks[:, :, k], chunks[:, :, k], lanes)
    while lanes.shape[2] > 1:
        lanes = lanes[:, :, : lanes.shape[2] // 2] + lanes[:, :, lanes.shape[2] // 2 :]
    return tree(lanes[:, :, 0].T, reduction="sum")


def norms_of(G):
    """Norms of samples: what their tensors add up to is added up in the same tree."""
    return np.sqrt(tree(np.array([squares_of(g.reshape(len(g), math.prod(g.shape[1:]))) for g in G]), reduction="sum"))


def factors_of(norms, C):
    """min(1, C / norm), 1 for a norm of 0, NaN for one that is not finite."""
    with np.errstate(all="ignore"):
        factors = np.minimum(1, norms.dtype.type(C) / norms)
    factors[norms == 0] = 1
    factors[~np.isfinite(norms)] = np.nan
    return factors


def roundings_of(columns):
    """Roundings between a square and the sum of all."""
    chunks = max(1, -(-max(columns) // CHUNK))
    return CHUNK // WIDTH + WIDTH.bit_length() - 1 + longest_path(chunks) + longest_path(len(columns))
