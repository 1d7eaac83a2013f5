"""The models: errors written out by hand, finite differences, torch and scikit-learn are the references."""

import itertools
import math
import warnings

import numpy as np
import pytest

from gdgpu.models import HuberRegression, LinearRegression, LogisticRegression, PoissonRegression, SoftmaxRegression
from support.covering import usual

D, DELTA = 5, 0.7


def reals(rng, B):
    return rng.normal(size=B)


def vectors(rng, B):
    return rng.normal(size=(B, 3))


def counts(rng, B):
    return rng.poisson(2, B)


def bits(rng, B):
    return rng.integers(0, 2, B)


def classes(rng, B):
    return rng.integers(0, 4, B)


# Each model: how it is made, targets for it, and the number of its outputs.
MODELS = {
    "linear": (lambda **how: LinearRegression(D, **how), reals, 1),
    "linear-3": (lambda **how: LinearRegression(D, 3, **how), vectors, 3),
    "huber": (lambda **how: HuberRegression(D, delta=DELTA, **how), reals, 1),
    "poisson": (lambda **how: PoissonRegression(D, **how), counts, 1),
    "logistic": (lambda **how: LogisticRegression(D, **how), bits, 1),
    "softmax": (lambda **how: SoftmaxRegression(D, 4, **how), classes, 4),
}
everywhere = pytest.mark.parametrize("kind", MODELS)
FLOATS = list(itertools.product(MODELS, ["float32", "float64"]))
# By default float32 where tests of one_pass.py compile the same kernels.
COMPILED = [case for case in FLOATS if case[1] == "float64" or case[0] in ("logistic", "softmax")]
either_float = pytest.mark.parametrize(("kind", "dtype"), usual(FLOATS, COMPILED))
TOLERANCE = {"float32": {"rtol": 2e-5, "atol": 2e-6}, "float64": {"rtol": 1e-12, "atol": 1e-14}}


def made(kind, B=7, dtype="float64", seed=0):
    """A model with random parameters, and B samples."""
    rng = np.random.default_rng(seed)
    make, targets, _ = MODELS[kind]
    model = make(dtype=dtype, device="cpu")
    for array in model.params.values():
        array[...] = rng.normal(size=array.shape)
    return model, rng.normal(size=(B, D)).astype(dtype), targets(rng, B)


def sample_error(kind, weight, bias, x, t):
    """E_n of one sample in plain Python floats, from its definition."""
    z = [
        math.fsum([x_i * w_i for x_i, w_i in zip(x, column, strict=True)] + [b])
        for column, b in zip(weight.T, bias, strict=True)
    ]
    if kind.startswith("linear"):
        return math.fsum((t_k - z_k) ** 2 for t_k, z_k in zip(np.atleast_1d(t), z, strict=True))
    if kind == "huber":
        d = abs(z[0] - t)
        return d * d if d <= DELTA else DELTA * (2 * d - DELTA)
    if kind == "poisson":
        return math.exp(z[0]) - t * z[0]
    if kind == "logistic":
        p = 1 / (1 + math.exp(-z[0]))
        return -math.log(p if t else 1 - p)
    return -math.log(math.exp(z[t]) / math.fsum(map(math.exp, z)))


def mean_error(kind, params, X, t):
    weight, bias = (np.asarray(params[name], "float64") for name in ("weight", "bias"))
    errors = [sample_error(kind, weight, bias, x, t_n) for x, t_n in zip(X.astype("float64"), t, strict=True)]
    return math.fsum(errors) / len(errors)


@either_float
def test_loss_is_the_mean_error(kind, dtype):
    model, X, t = made(kind, dtype=dtype)
    np.testing.assert_allclose(float(model.loss(X, t)), mean_error(kind, model.params, X, t), **TOLERANCE[dtype])


@everywhere
def test_gradient_is_the_slope_of_the_error(kind):
    model, X, t = made(kind)
    loss, grads = model.gradient(X, t)
    assert loss == pytest.approx(model.loss(X, t), rel=1e-14)  # one pass, and a matrix product
    h = 1e-5
    for name, array in model.params.items():
        for at in np.ndindex(array.shape):
            center, sides = array[at], []
            for side in (center + h, center - h):
                array[at] = side
                sides.append(mean_error(kind, model.params, X, t))
            array[at] = center
            assert grads[name][at] == pytest.approx((sides[0] - sides[1]) / (2 * h), rel=1e-6, abs=1e-8)


@either_float
def test_torch_agrees(kind, dtype):
    torch = pytest.importorskip("torch", reason="torch is the reference")
    functional = torch.nn.functional
    model, X, t = made(kind, B=33, dtype=dtype)
    params = [torch.tensor(model.params[name], requires_grad=True) for name in ("weight", "bias")]
    z = torch.tensor(X) @ params[0] + params[1]
    if kind == "softmax":
        errors = functional.cross_entropy(z, torch.tensor(t), reduction="none")
    elif kind == "logistic":
        target = torch.tensor(t, dtype=z.dtype)
        errors = functional.binary_cross_entropy_with_logits(z[:, 0], target, reduction="none")
    else:
        target = torch.tensor(t, dtype=z.dtype).reshape(z.shape)
        errors = {
            "huber": lambda: 2 * functional.huber_loss(z, target, reduction="none", delta=DELTA),
            "poisson": lambda: functional.poisson_nll_loss(z, target, log_input=True, reduction="none"),
        }.get(kind, lambda: (target - z) ** 2)().sum(1)

    def agree(ours, theirs):
        for name, gradient in zip(("weight", "bias"), theirs, strict=True):
            np.testing.assert_allclose(ours[name], gradient.numpy(), **TOLERANCE[dtype])

    loss, grads = model.gradient(X, t)
    np.testing.assert_allclose(loss, errors.mean().item(), **TOLERANCE[dtype])
    agree(grads, torch.autograd.grad(errors.mean(), params, retain_graph=True))
    G = model.per_sample_gradients(X, t)
    for n, error in enumerate(errors):
        agree(
            {name: array[n] for name, array in G.items()},
            torch.autograd.grad(error, params, retain_graph=True),
        )


@everywhere
@pytest.mark.parametrize("B", [1, 2, 33])
def test_mean_of_the_samples_gradients_is_the_gradient(kind, B):
    model, X, t = made(kind, B)
    _, grads = model.gradient(X, t)
    G = model.per_sample_gradients(X, t)
    assert list(G) == list(grads) == list(model.params)
    for name, array in model.params.items():
        assert grads[name].shape == array.shape and G[name].shape == (B, *array.shape)
        np.testing.assert_allclose(G[name].mean(axis=0), grads[name], **TOLERANCE["float64"])


@either_float
def test_an_empty_batch_is_zero_without_a_warning(kind, dtype):
    model, X, t = made(kind, B=0, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss, grads = model.gradient(X, t)
        G = model.per_sample_gradients(X, t)
        assert model.loss(X, t) == 0 and len(model.predict(X)) == 0
    assert loss == 0
    for name, array in model.params.items():
        assert grads[name].shape == array.shape and not grads[name].any() and not np.signbit(grads[name]).any()
        assert G[name].shape == (0, *array.shape)


# z of two samples per model, and the exact errors and residuals.
LARGE = [
    (LogisticRegression(1, dtype="float32"), [[1e4]], [0.0], 1, 0.0, [0.0]),
    (LogisticRegression(1, dtype="float32"), [[1e4]], [0.0], 0, 1e4, [1.0]),
    (LogisticRegression(1, dtype="float64"), [[-1e4]], [0.0], 1, 1e4, [-1.0]),
    (LogisticRegression(1, dtype="float64"), [[-1e4]], [0.0], 0, 0.0, [0.0]),
    (SoftmaxRegression(1, 3, dtype="float32"), [[1e4, -1e4, 0]], [0.0] * 3, 0, 0.0, [0, 0, 0]),
    (SoftmaxRegression(1, 3, dtype="float32"), [[1e4, -1e4, 0]], [0.0] * 3, 1, 2e4, [1, -1, 0]),
    (SoftmaxRegression(1, 2, dtype="float64"), [[1e4, 1e4]], [0.0] * 2, 0, math.log(2), [-0.5, 0.5]),
    (SoftmaxRegression(1, 2, dtype="float32"), [[-1e4, -1e4]], [0.0] * 2, 1, math.log(2), [0.5, -0.5]),
]


@pytest.mark.parametrize(("model", "weight", "bias", "t", "error", "residual"), usual(LARGE, LARGE[:6] + LARGE[7:]))
def test_large_logits_neither_overflow_nor_warn(model, weight, bias, t, error, residual):
    model.params["weight"][...], model.params["bias"][...] = weight, bias
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        loss, grads = model.gradient(np.ones((2, 1)), np.array([t, t]))
    assert loss == pytest.approx(error, rel=1e-7)
    np.testing.assert_allclose(grads["bias"], residual, rtol=1e-7)
    np.testing.assert_allclose(grads["weight"], [residual], rtol=1e-7)


def test_small_probabilities_keep_their_digits():
    model = LogisticRegression(1, dtype="float32")
    model.params["bias"][...] = -30
    assert model.gradient([[0.0]], [0])[1]["bias"][0] == pytest.approx(math.exp(-30), rel=1e-6, abs=0)


GIVEN = [(*case, given) for case in FLOATS for given in ("float64", "float32", "float16", "int32", "uint8", "bool")]
AS_IT_IS = [case for case in GIVEN if case[1] == "float32" and case[2] in ("float16", "uint8")]  # not cast: own kernels
CHOSEN = [case for case in GIVEN if case[:2] in COMPILED and case not in AS_IT_IS]
CHOSEN += [("linear", "float32", "float16"), ("huber", "float32", "uint8")]


@pytest.mark.parametrize(("kind", "dtype", "given"), usual(GIVEN, CHOSEN))
def test_arithmetic_stays_in_the_models_dtype(kind, dtype, given):
    model, X, t = made(kind, dtype=dtype)
    model.scale, X = 1.0, abs(X * 3).astype(given)  # scale: of bytes
    loss, grads = model.gradient(X, t)
    G = model.per_sample_gradients(X, t)
    assert {loss.dtype, model.loss(X, t).dtype, *(a.dtype for a in (*grads.values(), *G.values()))} == {np.dtype(dtype)}
    np.testing.assert_allclose(loss, mean_error(kind, model.params, X, t), **TOLERANCE[dtype])


@everywhere
def test_any_layout_is_taken_and_nothing_given_is_written(kind):
    model, X, t = made(kind, B=8)
    X_before, t_before, params = X.copy(), t.copy(), {name: a.copy() for name, a in model.params.items()}
    expected = model.gradient(X, t)
    wide = np.zeros((16, 2 * D))
    wide[::2, ::2] = X
    for same in (np.asfortranarray(X), wide[::2, ::2], X.tolist()):
        loss, grads = model.gradient(same, t.tolist())
        assert loss == pytest.approx(expected[0], rel=1e-13)
        for name, array in grads.items():
            assert array.flags.c_contiguous
            np.testing.assert_allclose(array, expected[1][name], rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(X, X_before)
    np.testing.assert_array_equal(t, t_before)
    for name, array in model.params.items():
        np.testing.assert_array_equal(array, params[name])


@everywhere
def test_parameters_start_at_zero(kind):
    make, targets, outputs = MODELS[kind]
    model = make()
    assert {name: (a.shape, a.dtype.name) for name, a in model.params.items()} == {
        "weight": ((D, outputs), "float32"),
        "bias": ((outputs,), "float32"),
    }
    assert not any(a.any() for a in model.params.values())
    rng = np.random.default_rng(1)
    X, t = rng.normal(size=(9, D)), targets(rng, 9)
    start = {"logistic": math.log(2), "softmax": math.log(4), "poisson": 1.0}
    if "linear" in kind:
        start[kind] = (t**2).sum() / 9
    elif kind == "huber":
        start[kind] = np.where(abs(t) < DELTA, t**2, DELTA * (2 * abs(t) - DELTA)).sum() / 9
    assert model.loss(X, t) == pytest.approx(start[kind], rel=1e-6)
    metric = {"poisson": "D^2", "logistic": "accuracy", "softmax": "accuracy"}.get(kind, "R^2")
    assert (model.name, model.metric_name) == (kind.split("-")[0], metric)


@everywhere
def test_predict_and_metric_agree_with_scikit_learn(kind):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the reference")
    model, X, t = made(kind, B=50)
    z = X @ model.params["weight"] + model.params["bias"]
    answers = model.predict(X)
    if kind == "poisson":
        np.testing.assert_allclose(answers, np.exp(z[:, 0]), rtol=1e-13)
        expected = metrics.d2_tweedie_score(t, answers, power=1)
    elif "linear" in kind or kind == "huber":
        assert answers.shape == t.shape
        np.testing.assert_allclose(answers.reshape(z.shape), z, rtol=1e-13)
        # Summed over outputs: the average of their R^2 by variance.
        expected = metrics.r2_score(t, answers, multioutput="variance_weighted")
    else:
        assert answers.dtype == np.int64
        np.testing.assert_array_equal(answers, z[:, 0] > 0 if kind == "logistic" else z.argmax(axis=1))
        expected = metrics.accuracy_score(t, answers)
    assert model.metric(X, t) == pytest.approx(expected, rel=1e-12)
    assert type(model.metric(X, t)) is float


def test_r2_of_constant_targets_is_defined():
    model = LinearRegression(1)
    X = [[1.0], [2.0]]
    assert model.metric(X, [0, 0]) == 1 and model.metric(X, [3, 3]) == 0


def test_regression_takes_targets_as_a_column():
    model, X, t = made("linear")
    flat, column = model.gradient(X, t), model.gradient(X, t[:, None])
    assert flat[0] == column[0]
    np.testing.assert_array_equal(flat[1]["weight"], column[1]["weight"])


def test_inputs_of_the_models_dtype_are_not_copied():
    model, X, t = made("softmax", dtype="float32")
    assert all(np.shares_memory(a, b) for a, b in zip(model._prepare(X, t), (X, t), strict=True))


X7 = np.zeros((7, D))
BAD_CALLS = [
    ("linear", np.zeros(D), np.zeros(7), ValueError, r"X: expected shape \(samples, 5\), got \(5,\)"),
    (
        "linear",
        np.zeros((7, D + 1)),
        np.zeros(7),
        ValueError,
        r"X: expected shape \(samples, 5\), got \(7, 6\)",
    ),
    ("linear", X7.astype(str), np.zeros(7), TypeError, "X: .*<U"),
    ("linear", X7.astype(complex), np.zeros(7), TypeError, "X: .*complex128"),
    ("linear", [[1.0], [1.0, 2.0]], np.zeros(2), TypeError, "X: .*list"),
    ("linear", None, np.zeros(7), TypeError, "X: .*object"),
    ("linear", X7, np.zeros(6), ValueError, "t: expected 7 targets, one for each sample of X, got 6"),
    ("linear", X7, np.zeros((7, 2)), ValueError, r"t: .*\(samples, 1\) or \(samples,\), got \(7, 2\)"),
    ("linear-3", X7, np.zeros(7), ValueError, r"t: expected shape \(samples, 3\), got \(7,\)"),
    ("linear", X7, 3.0, ValueError, r"t: .*got \(\)"),
    ("logistic", X7, np.full(7, 2), ValueError, "t: expected 0 or 1, got 2 in row 0"),
    ("logistic", X7, [0, 1, 0, 0.5, 0, 1, 1], ValueError, r"t: .*got 0\.5 in row 3"),
    ("logistic", X7, [0, 1, 0, np.nan, 0, 1, 1], ValueError, "t: .*got nan in row 3"),
    ("logistic", X7, np.zeros((7, 1)), ValueError, r"t: expected shape \(samples,\), got \(7, 1\)"),
    ("softmax", X7, [0, 1, 2, 3, 4, 0, 0], ValueError, r"t: expected classes in 0 \.\. 3, got 4"),
    ("softmax", X7, [0, 1, -1, 3, 2, 0, 0], ValueError, r"t: expected classes in 0 \.\. 3, got -1"),
    ("softmax", X7, np.zeros(7), TypeError, "t: expected integer classes, got dtype float64"),
    ("softmax", X7, np.array(list("abcdefg")), TypeError, "t: .*<U1"),
    ("softmax", X7, np.zeros((7, 4), int), ValueError, r"t: expected shape \(samples,\), got \(7, 4\)"),
]


@pytest.mark.parametrize("method", ["loss", "gradient", "per_sample_gradients", "metric"])
@pytest.mark.parametrize(("kind", "X", "t", "error", "message"), BAD_CALLS)
def test_bad_arrays_are_named(kind, X, t, error, message, method):
    model = MODELS[kind][0]()
    with pytest.raises(error, match=f"^{message}") as caught:
        getattr(model, method)(X, t)
    assert "\n" not in str(caught.value)


BAD_MODELS = [
    (LinearRegression, (0,), {}, ValueError, "n_features: expected an int >= 1, got 0"),
    (LinearRegression, (2.5,), {}, TypeError, "n_features: "),
    (LinearRegression, (2, 0), {}, ValueError, "n_outputs: "),
    (SoftmaxRegression, (2, 1), {}, ValueError, "n_classes: expected an int >= 2, got 1"),
    (
        LogisticRegression,
        (2,),
        {"dtype": "float16"},
        ValueError,
        'dtype: .*"float32" or "float64", got .float16',
    ),
    (LogisticRegression, (2,), {"dtype": "long"}, ValueError, "dtype: "),
    (LogisticRegression, (2,), {"dtype": "quaternion"}, ValueError, "dtype: "),
    (LogisticRegression, (2,), {"dtype": None}, ValueError, "dtype: "),
    (LogisticRegression, (2,), {"device": "tpu"}, ValueError, "device: "),
]


@pytest.mark.parametrize(("model", "args", "how", "error", "message"), BAD_MODELS)
def test_bad_settings_are_named(model, args, how, error, message):
    with pytest.raises(error, match=f"^{message}"):
        model(*args, **how)


def test_a_metric_of_no_samples_is_an_error():
    with pytest.raises(ValueError, match=r"^X: expected one sample or more, got shape \(0, 5\)"):
        SoftmaxRegression(D, 4).metric(np.zeros((0, D)), np.zeros(0, int))


def test_tensors_that_require_grad_are_refused():
    torch = pytest.importorskip("torch", reason="torch makes the tensors")
    model, X, t = made("linear", dtype="float32")
    assert model.loss(torch.tensor(X), torch.tensor(t)) == model.loss(X, t)
    with pytest.raises(TypeError, match=r"^X: .*detach"):
        model.loss(torch.tensor(X, requires_grad=True), t)


def test_arrays_of_another_device_are_refused():
    class OnGPU:
        __cuda_array_interface__: dict = {}  # noqa: RUF012

    with pytest.raises(TypeError, match=r"^X: expected an array on the CPU"):
        LinearRegression(D, device="cpu").loss(OnGPU(), np.zeros(7))
