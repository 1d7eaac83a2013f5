"""R^2 and D^2 where targets hardly vary, or not at all: no difference of sums that are nearly equal."""

import math
from fractions import Fraction

import numpy as np
import pytest

from gdgpu.models.losses import Huber, Poisson, Squared

VALUES = (0.1, 7.3, 293.15, 1e-30, 123456.789)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("n", (1, 3, 7, 1000))
@pytest.mark.parametrize("value", VALUES)
def test_targets_that_are_all_the_same(value, n, dtype):
    """As documented: 1 for outputs that are the targets, else 0."""
    t = np.full((n, 2), value, dtype)
    for loss in (Squared, Huber):
        assert loss(2, dtype).score(t.copy(), t) == 1 and loss(2, dtype).score(t * np.float32(1.001), t) == 0
    z = np.log(t.astype(np.float64))
    assert Poisson(2, dtype).score(z, t) == 1 and Poisson(2, dtype).score(z + 1e-3, t) == 0


@pytest.mark.parametrize("spread", (1e-3, 1e-7, 1e-11))
def test_targets_that_hardly_vary(spread):
    rng = np.random.default_rng(0)
    t = 293.15 * (1 + spread * rng.standard_normal((200, 1)))
    y = t + 0.3 * spread * 293.15 * rng.standard_normal(t.shape)
    exact_t, exact_y = [Fraction(x) for x in t.ravel()], [Fraction(x) for x in y.ravel()]
    mean = sum(exact_t) / len(t)
    left = sum((a - b) ** 2 for a, b in zip(exact_t, exact_y, strict=True))
    expected = float(1 - left / sum((a - mean) ** 2 for a in exact_t))
    assert math.isclose(Squared(1, "float64").score(y, t), expected, rel_tol=1e-3)
    # of small differences, Poisson's deviance is the squared error over the mean
    assert math.isclose(Poisson(1, "float64").score(np.log(t) + (y - t) / t, t), expected, rel_tol=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_deviance_by_its_definition(seed):
    rng = np.random.default_rng(seed)
    t, z = rng.poisson(2.0, (50, 1)).astype(np.float64), rng.normal(0, 3, (50, 1))

    def deviance(t, y):
        return math.fsum((a * math.log(a / b) if a else 0) - a + b for a, b in zip(t.ravel(), y.ravel(), strict=True))

    expected = 1 - deviance(t, np.exp(z)) / deviance(t, np.full(t.shape, t.mean()))
    assert math.isclose(Poisson(1).score(z, t), expected, rel_tol=1e-9)


def test_counts_that_are_all_zero():
    t = np.zeros((5, 1))
    assert Poisson(1).score(np.zeros((5, 1)), t) == 0
