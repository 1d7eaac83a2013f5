"""Errors that name an argument, and gradients and samples that a step must refuse."""

import numpy as np
import pytest

import gdgpu
from support.arrays import shifted, torch_with_grad
from support.references import samples


def refused(name, error=(ValueError, TypeError)):
    """Expect an error of one line that starts with the argument's name."""
    return pytest.raises(error, match=rf"\A{name}\b[^\n]*: \S[^\n]*\Z")


def optimizer_and_inputs():
    """An optimizer that has done a step, good gradients and good samples for it."""
    params = {"a": samples((1, 4, 3), "float32")[0], "b": samples((1, 6), "float64")[0]}
    optimizer = gdgpu.Momentum(params, 0.1)
    grads = {k: samples((1, *w.shape), w.dtype.name, 5)[0] for k, w in params.items()}
    optimizer.step(grads)
    return optimizer, grads, {k: samples((7, *w.shape), w.dtype.name, 6) for k, w in params.items()}


def changed(change):
    """A case that replaces one of the two arrays, chosen so that the good one comes first."""
    return lambda good, params: good | {"b": change(good["b"])}


BAD_GRADIENTS = {
    "shorter": changed(lambda g: g[..., :-1].copy()),
    "one more axis": changed(lambda g: g[..., None]),
    "float32 for float64": changed(lambda g: g.astype("f4")),
    "integers": changed(lambda g: g.astype(int)),
    "foreign byte order": changed(lambda g: g.astype(">f8")),
    "between elements": changed(lambda g: shifted(g.ravel()).reshape(g.shape)),
    "every second": changed(lambda g: np.repeat(g, 2, axis=-1)[..., ::2]),
    "a list": changed(lambda g: g.tolist()),
    "none": changed(lambda g: None),
    "requires grad": changed(lambda g: torch_with_grad(g.shape)),
    "float64 for float32": lambda good, params: good | {"a": good["a"].astype("f8")},
    "one key short": lambda good, params: {"a": good["a"]},
    "one key more": lambda good, params: good | {"c": good["a"]},
    "an array": lambda good, params: good["a"],
    "in a list": lambda good, params: list(good.values()),
}
BAD_SAMPLES = BAD_GRADIENTS | {
    "one sample less": changed(lambda g: g[:-1]),
    "no samples axis": changed(lambda g: g[0]),
    "a scalar": changed(lambda g: np.array(1.0)),
    "overlapping": lambda good, params: good | {"b": np.broadcast_to(params["b"], (7, 6))},
}
