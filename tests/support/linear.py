"""Linear models and samples for them, with every dtype of X, for the tests of kernels/models/linear.py."""

import math

import numpy as np

from gdgpu.models import HuberRegression, LinearRegression, LogisticRegression, PoissonRegression, SoftmaxRegression
from support.covering import usual
from support.references import assert_same_bits

DELTA, SCALE = 0.7, 1 / 255
# Each model: how it is made for a number of features, and its outputs.
MODELS = {
    "linear": (LinearRegression, 1),
    "linear-7": (lambda n, **how: LinearRegression(n, 7, **how), 7),
    "logistic": (LogisticRegression, 1),
    "softmax-4": (lambda n, **how: SoftmaxRegression(n, 4, **how), 4),
    "softmax-10": (lambda n, **how: SoftmaxRegression(n, 10, **how), 10),
    "huber": (lambda n, **how: HuberRegression(n, delta=DELTA, **how), 1),
    "poisson": (PoissonRegression, 1),
}
X_DTYPES = {"float32": "float32", "float16": "float32", "uint8": "float32", "float64": "float64"}  # of X: of the model
# Those whose kernels are compiled by default, the same in all tests: each model, each dtype of X, tiles of 1, 4 and 5.
COMPILED = [
    ("linear", "float16"),
    ("linear-7", "float32"),
    ("logistic", "float32"),
    ("softmax-4", "float64"),
    ("softmax-10", "float32"),
    ("softmax-10", "uint8"),
    ("huber", "float64"),
    ("poisson", "float64"),
]


def made(kind, x_dtype="float32", B=40, D=20, seed=0):
    """A model with random parameters, and B samples of D features."""
    rng = np.random.default_rng([seed, B, D])
    make, outputs = MODELS[kind]
    model = make(D, scale=SCALE, device="cpu", dtype=X_DTYPES[x_dtype])
    model.params["weight"][...] = rng.normal(size=(D, outputs)) / math.sqrt(D)
    model.params["bias"][...] = rng.normal(size=outputs)
    X = rng.integers(0, 256, (B, D)) if x_dtype == "uint8" else rng.normal(size=(B, D))
    t = {"softmax": rng.integers(0, outputs, B), "logistic": rng.integers(0, 2, B), "poisson": rng.poisson(2, B)}
    return model, X.astype(x_dtype), t.get(kind.split("-")[0], rng.normal(size=(B, outputs)).astype(model.dtype))


def compiled(cases):
    """Of cases that begin with a model and a dtype of X, those of COMPILED; with --full, all of them."""
    return usual(cases, [case for case in cases if case[:2] in COMPILED])


def assert_same(actual, expected):
    """Dicts of arrays with the same bits."""
    for name, array in expected.items():
        assert_same_bits(actual[name], array)
