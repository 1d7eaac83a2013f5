"""Linear models in one pass over X, against float64 formulas and stored gradients. Steps: test_one_pass_steps.py."""

import itertools
import json
import math
import warnings

import numpy as np
import pytest

from gdgpu import devices
from support.covering import usual
from support.linear import DELTA, MODELS, SCALE, X_DTYPES, assert_same, compiled, made
from support.references import assert_same_bits

NARROWED = "linear", "softmax-10"  # what narrow X adds to a kernel does not depend on the loss
PAIRS = [(kind, d) for d in X_DTYPES for kind in (NARROWED if d in ("float16", "uint8") else MODELS)]
every_pair = pytest.mark.parametrize(("kind", "x_dtype"), compiled(PAIRS))
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def formulas(kind, z, t):
    """Float64: errors, residuals, what terms of the errors add up to, how fast residuals grow with z."""
    t, loss = t if t.ndim == 2 else t[:, None], kind.split("-")[0]
    if loss == "linear":
        return ((z - t) ** 2).sum(1), 2 * (z - t), ((z - t) ** 2).sum(1), 2
    if loss == "huber":
        d = abs(z - t)
        errors = np.where(d <= DELTA, d**2, DELTA * (2 * d - DELTA)).sum(1)
        return errors, 2 * np.sign(z - t) * np.minimum(d, DELTA), 2 * (d * DELTA).sum(1) + errors, 2
    if loss == "poisson":
        return (np.exp(z) - t * z)[:, 0], np.exp(z) - t, (np.exp(z) + abs(t * z))[:, 0], 1.1 * np.exp(z)
    if loss == "logistic":
        p = 1 / (1 + np.exp(-z))
        return -np.log(np.where(t == 1, p, 1 - p))[:, 0], p - t, 1 + abs(z[:, 0]), 1
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    hot = np.arange(z.shape[1]) == t
    return -np.log(p[hot]), p - hot, 1 + 2 * abs(z).max(1, initial=0), 1


def expected_of(kind, model, X, t):
    """(loss, gradients) of the mean in float64, and bounds of their errors, to first order in the unit of rounding u.

    A sum of n terms is off by (n + 8) u times the sum of their magnitudes at most; exp, log and a division by 20 u.
    """
    u, B, D = np.finfo(model.dtype).eps / 2, max(len(X), 1), X.shape[1]
    weight, bias = (model.params[name].astype("float64") for name in ("weight", "bias"))
    X = X.astype("float64") * (SCALE if X.dtype == "uint8" else 1)
    z = X @ weight + bias
    errors, r, size, slope = formulas(kind, z, t)
    dz = (D + 8) * u * (abs(X) @ abs(weight) + abs(bias)).max(axis=1, keepdims=True)
    d_error = (abs(r) * dz + slope * dz**2).sum(1) + 20 * u * size
    dr = slope * dz + 20 * u * (1 + abs(z) + abs(r))
    ones = np.ones((len(X), 1))

    def gradients(residual):
        return {"weight": X.T @ residual / B, "bias": ones[:, 0] @ residual / B}

    def bound(a):
        return (abs(a).T @ (dr + (B + 8) * u * abs(r))) / B

    loss_bound = (d_error.sum() + (B + 8) * u * abs(errors).sum()) / B
    return errors.sum() / B, gradients(r), loss_bound, {"weight": bound(X), "bias": bound(ones)[0]}


def assert_agrees(kind, model, X, t):
    loss, grads = model.gradient(X, t)
    expected, gradients, loss_bound, bounds = expected_of(kind, model, X, t)
    assert loss.dtype == model.dtype and abs(loss - expected) <= loss_bound
    assert abs(model.loss(X, t) - expected) <= loss_bound
    for name, array in grads.items():
        assert (array.dtype, array.shape) == (model.dtype, model.params[name].shape)
        assert (abs(array - gradients[name]) <= bounds[name]).all()


@every_pair
@pytest.mark.parametrize("D", [1, 5, 15, 16, 17, 784])
def test_loss_and_gradient_are_the_formulas_within_rounding(kind, x_dtype, D):
    for B in (0, 1, 7, 8, 9, 33, 300, 650):
        assert_agrees(kind, *made(kind, x_dtype, B, D))


@pytest.mark.parametrize("x_dtype", usual(list(X_DTYPES), ["float64"]))
def test_many_features(x_dtype):
    assert_agrees("softmax-4", *made("softmax-4", x_dtype, 9, 100_000))


@pytest.mark.parametrize(("kind", "x_dtype"), compiled(list(itertools.product(NARROWED, ["float16", "uint8"]))))
def test_the_loss_of_more_rows_than_are_widened_at_once(kind, x_dtype):
    assert_agrees(kind, *made(kind, x_dtype, 2100, 3))


def unaligned(X):
    shifted = np.zeros(X.nbytes + 1, np.uint8)[1:].view(X.dtype).reshape(X.shape)
    shifted[...] = X
    return shifted


def fields(X):
    records = np.zeros(len(X), [("byte", "u1"), ("x", X.dtype, X.shape[1:])])
    records["x"] = X
    return records["x"]


# The same values elsewhere in memory: of X, and of t.
BACKWARDS = lambda X: X[::-1].copy()[::-1]  # noqa: E731
LAYOUTS = {
    "rows apart": (lambda X: np.repeat(X, 2, axis=0)[::2], BACKWARDS),
    "columns apart": (lambda X: np.repeat(X, 2, axis=1)[:, ::2], unaligned),
    "some columns": (lambda X: np.pad(X, ((0, 0), (3, 5)), constant_values=77)[:, 3:-5], BACKWARDS),
    "backwards": (BACKWARDS, unaligned),
    "unaligned": (unaligned, unaligned),
    "fields": (fields, fields),
    "by columns": (np.asfortranarray, np.asfortranarray),
}


@every_pair
def test_any_layout_has_the_same_bits_and_is_not_written(kind, x_dtype):
    for B, D in ((33, 17), (1, 16)):
        model, X, t = made(kind, x_dtype, B, D)
        params = {name: array.copy() for name, array in model.params.items()}
        loss, grads = model.gradient(X, t, 0.5)
        norms = model.sample_norms(X, t)
        for of_X, of_t in LAYOUTS.values():
            view = of_X(X)
            assert_same_bits(view, X)
            found, same = model.gradient(view, of_t(t), 0.5)
            assert found == loss
            assert_same(same, grads)
            assert_same_bits(model.sample_norms(view, t), norms)
            assert_same_bits(view, X)
        assert_same(model.params, params)


def test_one_row_given_many_times():
    model, X, t = made("softmax-4", B=1)
    many = np.broadcast_to(X, (40, 20)), np.broadcast_to(t, 40)
    assert_agrees("softmax-4", model, *many)


# Norms and clipping


def stored_norms(G):
    """Of the gradients of each sample, in float64."""
    return np.sqrt(sum((g.astype("float64") ** 2).sum(axis=tuple(range(1, g.ndim))) for g in G.values()))


@every_pair
@pytest.mark.parametrize("B", [0, 1, 9, 700])
def test_norms_are_those_of_stored_gradients(kind, x_dtype, B):
    model, X, t = made(kind, x_dtype, B)
    norms, expected = model.sample_norms(X, t), stored_norms(model.per_sample_gradients(X, t))
    assert (norms.shape, norms.dtype) == ((B,), model.dtype)
    rtol, typical = TOLERANCE[model.dtype.name], np.median(expected) if B else 0
    np.testing.assert_allclose(norms, expected, rtol=rtol, atol=rtol * typical)  # a residual near 0 has fewer digits


@every_pair
@pytest.mark.parametrize("B", [9, 700])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_clipping_is_that_of_stored_gradients(kind, x_dtype, B, reduction):
    model, X, t = made(kind, x_dtype, B)
    G = model.per_sample_gradients(X, t)
    norms = stored_norms(G)
    for max_norm in (np.median(norms), norms.min() / 2, 2 * norms.max()):
        factors = np.minimum(1, max_norm / norms)
        loss, grads = model.gradient(X, t, max_norm=max_norm, reduction=reduction)
        assert loss == model.gradient(X, t)[0]
        for name, array in G.items():
            sums = np.tensordot(factors, array.astype("float64"), 1)
            magnitude = np.tensordot(factors, abs(array.astype("float64")), 1).max()
            expected, magnitude = (a / (B if reduction == "mean" else 1) for a in (sums, magnitude))
            rtol = TOLERANCE[model.dtype.name]
            np.testing.assert_allclose(grads[name], expected, rtol=rtol, atol=rtol / 4 * magnitude)


@every_pair
def test_bounds_of_nothing_and_of_more_than_any_norm(kind, x_dtype):
    model, X, t = made(kind, x_dtype)
    assert not any(array.any() for array in model.gradient(X, t, max_norm=0)[1].values())
    loss, plain = model.gradient(X, t)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for max_norm in (math.inf, 1e30, 1e300):  # the last is infinite in float32
            found, grads = model.gradient(X, t, max_norm=max_norm)
            assert found == loss
            assert_same(grads, plain)


@pytest.mark.parametrize(
    ("kind", "x_dtype"),
    compiled(list(itertools.product(["linear", "linear-7", "huber", "poisson"], ["float32", "float64"]))),
)
def test_a_gradient_of_zero_is_not_divided_by_its_norm(kind, x_dtype):
    model, X, _ = made(kind, x_dtype)
    for array in model.params.values():
        array[...] = 0 if kind == "poisson" else 1
    X[...] = X > 0
    model.scale = 1.0
    t = np.exp(model.params["bias"][0]) if kind == "poisson" else X.sum(1) + 1.0
    t = np.broadcast_to(np.reshape(t, (-1, 1)), (len(X), model.n_outputs))
    assert not model.sample_norms(X, t).any()
    loss, grads = model.gradient(X, t, max_norm=1e-3)
    assert loss == (1 if kind == "poisson" else 0) and not any(array.any() for array in grads.values())


@pytest.mark.parametrize(("kind", "x_dtype"), compiled(list(itertools.product(MODELS, ["float32", "float64"]))))
@pytest.mark.parametrize("B", [8, 33])
def test_a_sample_that_is_not_a_number_shows(kind, x_dtype, B):
    model, X, t = made(kind, x_dtype, B)
    X[-1, 3] = np.nan
    norms = model.sample_norms(X, t)
    assert np.isnan(norms[-1]) and np.isfinite(norms[:-1]).all()
    for max_norm in (None, 0, 1.0, 1e30):
        loss, grads = model.gradient(X, t, max_norm)
        assert np.isnan(loss) and all(np.isnan(array).all() for array in grads.values())


def test_a_norm_that_overflows_shows_where_it_clips():
    model, X, t = made("logistic")
    X[5], t[5] = -1e25, 1
    model.params["weight"][...] = 1
    assert np.isinf(model.sample_norms(X, t)[5])
    assert np.isnan(model.gradient(X, t, max_norm=1.0)[1]["weight"]).all()
    assert np.isfinite(model.gradient(X, t)[1]["weight"]).all()


@every_pair
def test_an_empty_batch_is_zero(kind, x_dtype):
    model, X, t = made(kind, x_dtype, B=0)
    for max_norm, reduction in itertools.product((None, 1.0), ("mean", "sum")):
        loss, grads = model.gradient(X, t, max_norm, reduction)
        assert_same_bits(loss, model.dtype.type(0))
        assert_same(grads, {name: np.zeros_like(array) for name, array in model.params.items()})


@every_pair
def test_the_answer_does_not_depend_on_threads(kind, x_dtype, use_threads):
    found = []
    for threads in (1, 2, 5):
        use_threads(threads)
        model, X, t = made(kind, x_dtype, 700)  # a new one: nothing is kept from other threads
        answers = dict(model.gradient(X, t)[1], norms=model.sample_norms(X, t))
        loss, clipped = model.gradient(X, t, 0.5)
        found.append(answers | {f"clipped {name}": array for name, array in clipped.items()} | {"loss": loss})
    for answers in found[1:]:
        assert_same(answers, found[0])


# The other device

NO_GPU = "the simulator is in its place" if devices.simulated() else devices.why_no_cuda()
ENVIRONMENTS = [
    pytest.param({"NUMBA_ENABLE_CUDASIM": "1"}, id="simulator"),
    pytest.param({}, id="gpu", marks=pytest.mark.skipif(NO_GPU is not None, reason=f"no GPU: {NO_GPU}")),
]
# A model, its other arguments, dtype of X, samples, features, whether rows lie apart; and a bound of the norms.
CASES = [("Linear", (), x_dtype, 9, D, D % 2) for x_dtype in X_DTYPES for D in (32, 5)]  # vectors, or not
CASES += [("Softmax", (7,), x_dtype, 3, D, 0) for x_dtype in X_DTYPES for D in (16, 3)]
CASES += [(name, (), "float32", 9, 4, 0) for name in ("Huber", "Logistic", "Poisson")]
CASES += [
    ("Huber", (3,), "float32", 97, 4, 1),
    ("Linear", (), "uint8", 65, 16, 0),
    ("Linear", (2,), "float32", 1, 264, 0),
]
CASES = [(*case, max_norm) for case in CASES for max_norm in (None, 1.0)]
# By default: where other tests compile the same kernels for the CPU; three more clipped only, as the bound adds lines.
SHARED = [("Linear", (), "float16"), ("Softmax", (7,), "float64"), ("Logistic", (), "float32")]
PLAIN = [("Linear", (), "float32"), ("Poisson", (), "float32")]
CLIPPED = [("Linear", (), "uint8"), ("Linear", (2,), "float32"), ("Huber", (3,), "float32")]
USUAL = [case for case in CASES if case[:3] in SHARED + (PLAIN if case[-1] is None else CLIPPED)]
PARTS = {"usual": USUAL, "others": [case for case in CASES if case not in USUAL]}
ANSWERS = """
import json
import sys
import numpy as np
from gdgpu import models
from gdgpu.devices import on_host

def answers(device, cases):
    rng, found = np.random.default_rng(0), {}
    for name, more, x_dtype, B, D, apart, max_norm in cases:
        dtype = "float64" if x_dtype == "float64" else "float32"
        model = getattr(models, f"{name}Regression")(D, *more, scale=1 / 255, device=device, dtype=dtype)
        xp, outputs = model.device.xp, model.n_outputs
        for array in model.params.values():
            array[...] = xp.asarray(rng.normal(size=array.shape) / 3)
        t = {"softmax": rng.integers(0, outputs, B), "logistic": rng.integers(0, 2, B), "poisson": rng.poisson(2, B)}
        t = t.get(model.name, rng.normal(size=(B, outputs)))
        X = rng.integers(0, 256, (B, D)) if x_dtype == "uint8" else rng.normal(size=(B, D))
        X = xp.asarray(np.repeat(X, 2, axis=0).astype(x_dtype))[::2] if apart else xp.asarray(X.astype(x_dtype))
        case = f"{dtype} {name} {more} {x_dtype} {B} {D} {max_norm}"
        found[f"{case} loss"], grads = model.gradient(X, t, max_norm)
        found |= {f"{case} {of}": array for of, array in grads.items()}
        if max_norm is not None:
            found[f"{case} norms"] = model.sample_norms(X, t)
    return {name: on_host(array) for name, array in found.items()}
"""


@pytest.mark.parametrize("part", usual(list(PARTS), ["usual"]))
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_other_devices_agree(environment, part, python, tmp_path):
    pytest.importorskip("numba_cuda", reason="numba-cuda has the simulator: install gdgpu[test]")
    here, there, cases = {}, tmp_path / "there.npz", json.dumps(PARTS[part])
    save = "np.savez(sys.argv[1], **answers('cuda', json.loads(sys.argv[2])))"
    python(f"{ANSWERS}\n{save}", there, cases, **environment)
    exec(ANSWERS, here)
    expected = here["answers"]("cpu", json.loads(cases))
    with np.load(there) as found:
        assert sorted(found) == sorted(expected)
        for name, array in expected.items():
            rtol, atol = (1e-12, 1e-13) if name.startswith("float64") else (2e-5, 2e-6)
            assert found[name].dtype == array.dtype
            np.testing.assert_allclose(found[name], array, rtol=rtol, atol=atol, err_msg=name)
