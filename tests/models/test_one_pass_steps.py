"""Steps of linear models are those of the optimizer by the gradient; what they keep and what they refuse."""

import math
import tracemalloc

import numpy as np
import pytest

import gdgpu
from gdgpu.models import HuberRegression, LinearRegression, LogisticRegression, PoissonRegression, SoftmaxRegression
from support.covering import usual
from support.linear import COMPILED, MODELS, X_DTYPES, assert_same, made
from support.references import assert_same_bits

OPTIMIZERS = {
    "momentum": lambda params: gdgpu.Momentum(params, 0.01),
    "adam": lambda params: gdgpu.Adam(params, 0.01),
    "schedule": lambda params: gdgpu.AdamW(params, gdgpu.schedules.cosine(0.01, steps=9, warmup=3)),
    "lars": lambda params: gdgpu.LARS(params, 0.01),
    "codes": lambda params: gdgpu.Momentum(params, 0.01, state_dtype="uint8"),
}
SIZES = (40, 7, 40, 64, 1, 33, 7, 0, 8, 9, 65, 39, 700, 40, 64)  # more of them than are kept


def assert_same_steps(pair, optimizers, X, t, max_norm=None):
    """`model.step` of the first model and optimizer, and the optimizer's step of the gradient, of the others."""
    (model, twin), (ours, reference) = pair, optimizers
    before = model.loss(X, t)
    loss = model.step(X, t, ours, max_norm=max_norm)
    expected, grads = twin.gradient(X.copy(), t.copy(), max_norm)
    reference.step(grads)
    assert_same_bits(loss, expected)
    assert loss == pytest.approx(before, rel=1e-5)
    assert_same(model.params, twin.params)
    assert ours.steps == reference.steps


def twins(kind, x_dtype="float32", B=700):
    model, X, t = made(kind, x_dtype, B)
    return (model, made(kind, x_dtype, B)[0]), X, t


STEPS = [(kind, "adam", x_dtype) for kind in MODELS for x_dtype in X_DTYPES]
STEPS += [(kind, name, "float32") for kind in ("linear", "softmax-10") for name in OPTIMIZERS if name != "adam"]
STEPS += [("linear-7", "codes", "uint8"), ("huber", "lars", "float64")]


@pytest.mark.parametrize(
    ("kind", "name", "x_dtype"), usual(STEPS, [case for case in STEPS if (case[0], case[2]) in COMPILED])
)
def test_a_step_is_the_optimizers_step_of_the_gradient(kind, name, x_dtype):
    pair, X, t = twins(kind, x_dtype)
    optimizers = [OPTIMIZERS[name](model.params) for model in pair]
    for k, B in enumerate(SIZES):
        assert_same_steps(pair, optimizers, X[700 - B :], t[700 - B :], (None, 0.5)[k % 2])
    states = [optimizer.state_dict()["state"] for optimizer in optimizers]
    for state, array in states[1].items():
        assert_same(states[0][state], array)
    assert any(array.any() for state in states[0].values() for array in state.values())


def test_two_optimizers_in_turn():
    pair, X, t = twins("softmax-4")
    both = [[OPTIMIZERS[name](model.params) for model in pair] for name in ("adam", "momentum")]
    for k in (0, 1, 1, 0, 1, 0, 0):
        assert_same_steps(pair, both[k], X, t)


def test_what_changes_between_steps_is_seen():
    pair, X, t = twins("huber", "uint8")
    optimizers = [OPTIMIZERS["momentum"](model.params) for model in pair]
    changes = [
        lambda model, optimizer: None,
        lambda model, optimizer: X.__setitem__(slice(None), 255 - X),
        lambda model, optimizer: t.__setitem__(slice(None), t[::-1].copy()),
        lambda model, optimizer: model.params["weight"].__imul__(-3),
        lambda model, optimizer: setattr(optimizer, "lr", 0.5),
        lambda model, optimizer: setattr(model, "scale", 1 / 100),
        lambda model, optimizer: setattr(model.criterion, "delta", 0.1),
        lambda model, optimizer: optimizer.load_state_dict(OPTIMIZERS["momentum"](model.params).state_dict()),
    ]
    losses = []
    for change in changes:
        for k, (model, optimizer) in enumerate(zip(pair, optimizers, strict=True)):
            if k == 0 or change not in changes[1:3]:  # X and t are shared
                change(model, optimizer)
        fresh, _, _ = made("huber", "uint8", 700)
        fresh.scale, fresh.criterion.delta = pair[0].scale, pair[0].criterion.delta
        for name, array in pair[0].params.items():
            fresh.params[name][...] = array
        assert_same(pair[0].gradient(X, t)[1], fresh.gradient(X, t)[1])
        assert_same_steps(pair, optimizers, X, t)
        losses.append(fresh.loss(X, t))
    assert len(set(losses)) == len(losses)


@pytest.mark.parametrize("kind", usual(["linear", "softmax-10"], ["softmax-10"]))
def test_parameters_may_become_other_arrays(kind):
    pair, X, t = twins(kind)
    before = OPTIMIZERS["adam"](pair[0].params)
    pair[0].step(X, t, before)
    for model in pair:
        for name, array in model.params.items():
            model.params[name] = np.full(array.shape, 0.25, array.dtype)
    with pytest.raises(ValueError, match=r"^optimizer: expected one made from this model's params"):
        pair[0].step(X, t, before)
    optimizers = [OPTIMIZERS["adam"](model.params) for model in pair]
    for _ in range(2):
        assert_same_steps(pair, optimizers, X, t)
    assert pair[0].params["weight"].flat[0] != 0.25


WRONG = [
    (np.zeros((20, 4)), ValueError, r"params: expected weight to be C-contiguous float32 \(20, 4\), got float64 .*"),
    (np.zeros((4, 20), "f4"), ValueError, r"params: expected weight to .*, got float32 \(4, 20\), strides .*"),
    (np.zeros((4, 20), "f4").T, ValueError, r"params: expected weight to .*, got float32 \(20, 4\), strides \(4, 80\)"),
    ([[0.0] * 4] * 20, TypeError, r"params: expected weight to be an array float32 \(20, 4\), got list"),
]


@pytest.mark.parametrize(("array", "error", "message"), WRONG)
def test_parameters_that_no_kernel_reads_are_named(array, error, message):
    model, X, t = made("softmax-4")
    model.gradient(X, t)
    model.params["weight"] = array
    for method in (model.gradient, model.sample_norms):
        with pytest.raises(error, match=f"^{message}$"):
            method(X, t)


@pytest.mark.parametrize("x_dtype", usual(["float32", "float16", "uint8"], ["float32", "uint8"]))
@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_a_step_stores_no_gradients_of_samples_and_no_wider_X(x_dtype, max_norm):
    model, X, t = made("softmax-10", x_dtype, 4096, 784)
    optimizer = gdgpu.Momentum(model.params, 0.1)

    def peak(function):
        tracemalloc.start()
        function()
        return tracemalloc.get_traced_memory()[1], tracemalloc.stop()

    step = lambda: model.step(X, t, optimizer, max_norm=max_norm)  # noqa: E731
    assert peak(step)[0] < X.nbytes / 2  # with all that is kept between steps
    assert peak(step)[0] < 1 << 16  # and later ones allocate nothing of note
    assert peak(lambda: X.astype("float32"))[0] >= X.size * 4  # which the measure would have seen


X40 = np.zeros((40, 20), "float32")
OTHERS = gdgpu.Momentum(made("linear")[0].params, 0.1)
BAD = [
    ("softmax-4", dict(t=np.full(40, 4)), ValueError, r"t: expected classes in 0 \.\. 3, got 4"),
    ("softmax-4", dict(t=np.full(40, -1)), ValueError, r"t: expected classes in 0 \.\. 3, got -1"),
    ("logistic", dict(t=np.full(40, 2)), ValueError, "t: expected 0 or 1, got 2 in row 0"),
    ("poisson", dict(t=-np.ones(40)), ValueError, "t: expected numbers >= 0, got -1 in row 0"),
    ("linear", dict(t=np.zeros(39)), ValueError, "t: expected 40 targets, one for each sample of X, got 39"),
    ("linear-7", dict(t=np.zeros(40)), ValueError, r"t: expected shape \(samples, 7\), got \(40,\)"),
    ("linear", dict(X=X40.astype("u1")), ValueError, "X: bytes need a scale: make the model with scale=1/255, or .*"),
    ("linear", dict(X=X40[:, :19]), ValueError, r"X: expected shape \(samples, 20\), got \(40, 19\)"),
    ("linear", dict(X=X40[0]), ValueError, r"X: expected shape \(samples, 20\), got \(20,\)"),
    ("linear", dict(X=X40.astype("complex64")), TypeError, "X: expected a numeric array, got dtype complex64"),
    ("linear", dict(max_norm=-1), ValueError, r"max_norm: expected a finite number >= 0, got -1\.0"),
    ("linear", dict(max_norm=-math.inf), ValueError, "max_norm: expected a finite number >= 0, got -inf"),
    ("linear", dict(max_norm=math.nan), ValueError, "max_norm: expected a finite number >= 0, got nan"),
    ("linear", dict(max_norm="1"), TypeError, "max_norm: expected a number, got str"),
    ("linear", dict(max_norm=np.ones(2)), TypeError, "max_norm: expected a number, got ndarray"),
    ("linear", dict(reduction="max"), ValueError, "reduction: expected 'mean' or 'sum', got 'max'"),
    ("linear", dict(optimizer=0.1), TypeError, "optimizer: expected one of gdgpu's optimizers, got float"),
    ("linear", dict(optimizer=OTHERS), ValueError, "optimizer: expected one made from this model's params, got .*"),
]


@pytest.mark.parametrize(("kind", "given", "error", "message"), BAD)
def test_bad_arguments_are_named_and_nothing_changes(kind, given, error, message):
    model, X, t = made(kind)
    model.scale = None
    optimizer = gdgpu.Momentum(model.params, 0.1)
    params = {name: array.copy() for name, array in model.params.items()}
    methods = [lambda **given: model.step(**{"optimizer": optimizer} | given)]
    methods += [model.gradient] * ("optimizer" not in given)
    methods += [model.loss, model.sample_norms, model.per_sample_gradients] * (given.keys() <= {"X", "t"})
    given = {"X": X, "t": t} | given
    for method in methods:
        with pytest.raises(error, match=f"^{message}$"):
            method(**given)
    assert_same(model.params, params)
    assert optimizer.steps == 0 and not optimizer.state_dict()["state"]["velocity"]["weight"].any()


@pytest.mark.parametrize("given", ["X", "t"])
def test_tensors_that_require_grad_are_refused(given, torch):
    model, X, t = made("poisson", "float64")
    batch = {"X": torch.tensor(X), "t": torch.tensor(t, dtype=torch.float64)}
    assert_same(model.gradient(**batch)[1], model.gradient(X, t)[1])
    batch[given].requires_grad_()
    for method in (model.gradient, lambda **batch: model.step(**batch, optimizer=gdgpu.SGD(model.params, 0.1))):
        with pytest.raises(TypeError, match=rf"^{given}: a tensor that requires grad; pass its \.detach\(\)$"):
            method(**batch)


BAD_MODELS = [
    (LinearRegression, (2,), {"scale": math.nan}, ValueError, "scale: expected a finite number >= 0, got nan"),
    (LinearRegression, (2,), {"scale": -1}, ValueError, r"scale: expected a finite number >= 0, got -1\.0"),
    (LogisticRegression, (2,), {"scale": 0}, ValueError, "scale: expected a finite number > 0, got 0"),
    (PoissonRegression, (2,), {"scale": "1"}, TypeError, "scale: expected a number, got str"),
    (HuberRegression, (2,), {"delta": 0}, ValueError, "delta: expected a finite number > 0, got 0"),
    (HuberRegression, (2, 0), {}, ValueError, "n_outputs: expected an int >= 1, got 0"),
    (PoissonRegression, (0,), {}, ValueError, "n_features: expected an int >= 1, got 0"),
    (LogisticRegression, (1 << 31,), {}, ValueError, r"n_features: .* 2\*\*31 .*, got 2147483648 times 1"),
    (LinearRegression, (1 << 40, 1 << 40), {}, ValueError, r"n_features: .* 2\*\*31 .*, got 1099511627776 times .*"),
    (SoftmaxRegression, (1 << 16, 1 << 15), {}, ValueError, r"n_features: .* 2\*\*31 .*, got 65536 times 32768"),
]


@pytest.mark.parametrize(("model", "args", "how", "error", "message"), BAD_MODELS)
def test_bad_settings_are_named(model, args, how, error, message):
    tracemalloc.start()
    with pytest.raises(error, match=f"^{message}$"):
        model(*args, **how, device="cpu")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
