"""The losses: against their formulas in plain Python, finite differences, torch and scikit-learn; on both paths."""

import math

import numpy as np
import pytest

from gdgpu.kernels.models import layers
from gdgpu.models.losses import LOSSES

DELTA = 0.7
everywhere = pytest.mark.parametrize("name", LOSSES)
CASES = [
    (name, outputs)
    for name, loss in LOSSES.items()
    for outputs in (1, 4)
    if loss.outputs[0] <= outputs <= loss.outputs[1]
]
each = pytest.mark.parametrize(("name", "outputs"), CASES)


def made(name, outputs, dtype="float64"):
    return LOSSES[name](outputs, dtype, **({"delta": DELTA} if name == "huber" else {}))


def targets(name, outputs, B, seed=0):
    """Targets as a user gives them."""
    rng = np.random.default_rng(seed)
    of_kind = {
        "logistic": lambda: rng.integers(0, 2, B),
        "softmax": lambda: rng.integers(0, outputs, B),
        "poisson": lambda: rng.poisson(1.5, (B, outputs)),
    }
    return of_kind.get(name, lambda: rng.normal(size=(B, outputs)))()


def batch(name, outputs, B=23, dtype="float64"):
    """(loss, z, t as errors takes it, t as given)."""
    loss, given = made(name, outputs, dtype), targets(name, outputs, B)
    z = 1.5 * np.random.default_rng(1).normal(size=(B, outputs))
    return loss, z.astype(dtype), loss.targets(given, "t"), given


def sample_error(name, z, t):
    """E_n of one sample from its definition."""
    if name == "softmax":
        return -math.log(math.exp(z[t]) / math.fsum(map(math.exp, z)))
    if name == "logistic":
        p = 1 / (1 + math.exp(-z[0]))
        return -math.log(p if t else 1 - p)
    of_one = {
        "squared": lambda y, t: (t - y) ** 2,
        "huber": lambda y, t: (t - y) ** 2 if abs(t - y) <= DELTA else DELTA * (2 * abs(t - y) - DELTA),
        "poisson": lambda z, t: math.exp(z) - t * z,
    }[name]
    return math.fsum(of_one(float(y), float(t)) for y, t in zip(z, t, strict=True))


@each
def test_errors_are_the_formula_and_residuals_its_slope(name, outputs):
    loss, z, t, given = batch(name, outputs)
    errors, residual = loss.errors(z, t)
    np.testing.assert_allclose(
        errors, [sample_error(name, *sample) for sample in zip(z, given, strict=True)], rtol=1e-12
    )
    h = 1e-6
    for n, k in np.ndindex(z.shape):
        sides = [z[n].copy(), z[n].copy()]
        sides[0][k], sides[1][k] = z[n, k] + h, z[n, k] - h
        above, below = (sample_error(name, side, given[n]) for side in sides)
        assert residual[n, k] == pytest.approx((above - below) / (2 * h), abs=1e-7)


@each
def test_torch_agrees(name, outputs, torch):
    functional = torch.nn.functional
    loss, z, t, given = batch(name, outputs)
    z, t = torch.tensor(z, requires_grad=True), torch.tensor(t)
    errors = {
        "squared": lambda: functional.mse_loss(z, t, reduction="none"),
        "huber": lambda: 2 * functional.huber_loss(z, t, reduction="none", delta=DELTA),
        "poisson": lambda: functional.poisson_nll_loss(z, t, log_input=True, reduction="none"),
        "logistic": lambda: functional.binary_cross_entropy_with_logits(z, t, reduction="none"),
        "softmax": lambda: functional.cross_entropy(z, t, reduction="none")[:, None],
    }[name]().sum(1)
    ours = loss.errors(z.detach().numpy(), loss.targets(given, "t"))
    np.testing.assert_allclose(ours[0], errors.detach(), rtol=1e-12)
    np.testing.assert_allclose(ours[1], torch.autograd.grad(errors.sum(), z)[0], rtol=1e-12, atol=1e-14)


@each
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_kernel_at_the_end_of_a_network_agrees(name, outputs, dtype):
    loss, z, t, _ = batch(name, outputs, dtype=dtype)
    bias = np.linspace(-0.5, 0.5, outputs).astype(dtype)
    errors, residual = loss.errors(z + bias, t)
    found, squares = np.empty((2, len(z)), dtype)
    numbers = map(np.dtype(dtype).type, (DELTA, 0.25))
    launch = layers.launcher("cpu", layers.loss_end, name, dtype)
    launch(z.shape, z, bias, t, found, squares, outputs, *numbers)
    tolerance = {"float32": {"rtol": 2e-5, "atol": 1e-6}, "float64": {"rtol": 1e-12, "atol": 1e-14}}[dtype]
    np.testing.assert_allclose(found, errors, **tolerance)
    np.testing.assert_allclose(z, 0.25 * residual, **tolerance)
    np.testing.assert_allclose(squares, (residual * residual).sum(axis=1), **tolerance)


@each
def test_scores_agree_with_scikit_learn(name, outputs):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the reference")
    loss, z, t, given = batch(name, outputs)
    answer = loss.answer(z)
    if loss.kind == "classes":
        assert answer.dtype == np.int64
        expected = metrics.accuracy_score(given, answer)
    elif name == "poisson":
        deviance, usual = metrics.mean_poisson_deviance, np.broadcast_to(given.mean(axis=0), given.shape)
        expected = 1 - deviance(given.ravel(), answer.ravel()) / deviance(given.ravel(), usual.ravel())
    else:
        expected = metrics.r2_score(given, answer, multioutput="variance_weighted")
    assert loss.score(z, t) == pytest.approx(expected, rel=1e-12) and type(loss.score(z, t)) is float


@pytest.mark.parametrize("name", ["squared", "huber", "poisson"])
def test_a_score_of_constant_targets_is_defined(name):
    loss, t = made(name, 1), np.full((3, 1), 2.0)
    exact = np.log(t) if name == "poisson" else t
    assert loss.score(exact, t) == 1 and loss.score(exact + 0.5, t) == 0


@pytest.mark.parametrize("t", [np.zeros((3, 1)), np.array([[0.0], [5.0], [1.0]])])
def test_the_deviance_of_zero_counts_is_defined(t):
    assert np.isfinite(made("poisson", 1).score(np.ones((3, 1)), t))


def test_huber_is_squared_up_to_delta_and_linear_beyond():
    loss, t = made("huber", 1), np.zeros((4, 1))
    z = DELTA * np.array([[0.5], [-1.0], [2.0], [-3.0]])
    errors, residual = loss.errors(z, t)
    np.testing.assert_allclose(errors / DELTA**2, [0.25, 1, 3, 5], rtol=1e-14)
    np.testing.assert_allclose(residual / DELTA, [[1], [-2], [2], [-2]], rtol=1e-14)


@pytest.mark.parametrize("delta", [0, -1, math.nan, math.inf])
def test_delta_is_checked(delta):
    with pytest.raises(
        ValueError, match=r"^delta: expected a finite number > 0, got|^delta: expected a finite number >= 0"
    ):
        LOSSES["huber"](1, delta=delta)


BAD_TARGETS = [
    ("squared", 2, np.zeros((3, 1)), ValueError, r"t: expected shape \(samples, 2\), got \(3, 1\)"),
    ("huber", 1, np.zeros((3, 2)), ValueError, r"t: expected shape \(samples, 1\) or \(samples,\), got \(3, 2\)"),
    ("poisson", 1, np.array([1, 0, -2]), ValueError, "t: expected numbers >= 0, got -2 in row 2"),
    ("poisson", 2, np.array([[1, 0], [0, -0.5]]), ValueError, r"t: expected numbers >= 0, got -0\.5 in row 1"),
    ("logistic", 1, np.array([0, 1, 2]), ValueError, "t: expected 0 or 1, got 2 in row 2"),
    ("softmax", 3, np.array([0, 3]), ValueError, r"t: expected classes in 0 \.\. 2, got 3"),
    ("softmax", 3, np.array([0, -1]), ValueError, r"t: expected classes in 0 \.\. 2, got -1"),
    ("softmax", 3, np.array([0.0, 1.0]), TypeError, "t: expected integer classes, got dtype float64"),
]


@pytest.mark.parametrize(("name", "outputs", "t", "error", "message"), BAD_TARGETS)
def test_bad_targets_are_named(name, outputs, t, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        made(name, outputs).targets(t, "t")
