"""Two equal optimizers over tensors of several shapes, samples for them, and whether both still are equal."""

import numpy as np

from support.optimizers import make
from support.references import assert_same_bits, samples

SHAPES = {"weight": (7, 11), "bias": (), "nothing": (0, 3), "wide": (2100,)}


def two_of(label, dtypes, hyper, lr=0.05):
    """Two optimizers of this label in OPTIMIZERS, with these arguments of their own, over equal parameters."""
    pair = []
    for _ in range(2):
        params = {
            k: np.array(samples((1, *shape), d, 9)[0]) for (k, shape), d in zip(SHAPES.items(), dtypes, strict=True)
        }
        pair.append(make(label, params, lr, **hyper))
    return pair


def gradients(B, dtypes, seed):
    return {k: samples((B, *shape), d, seed) for (k, shape), d in zip(SHAPES.items(), dtypes, strict=True)}


def assert_same_optimizers(a, b):
    assert a.steps == b.steps
    for k in SHAPES:
        assert_same_bits(a.params[k], b.params[k])
    a, b = a.state_dict(), b.state_dict()
    assert a["state"].keys() == b["state"].keys()
    for name, arrays in a["state"].items():
        for k in SHAPES:
            assert_same_bits(arrays[k], b["state"][name][k])
