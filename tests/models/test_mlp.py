"""The MLP: finite differences, torch's autograd and stored per-sample gradients are the references."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest

import gdgpu
from gdgpu import devices
from gdgpu.models import MLP
from gdgpu.models.losses import LOSSES
from gdgpu.models.mlp import VARIANCES
from support.covering import usual

SIZES = (5, 9, 6)
KINDS = [(activation, loss) for activation in VARIANCES for loss in LOSSES]
everywhere = pytest.mark.parametrize(("activation", "loss"), KINDS)
both_floats = pytest.mark.parametrize("dtype", ["float32", "float64"])
TOLERANCE = {"float32": {"rtol": 2e-5, "atol": 2e-6}, "float64": {"rtol": 1e-12, "atol": 1e-13}}


def made(activation="relu", loss="softmax", B=11, dtype="float64", hidden=SIZES, seed=0):
    """A model with random biases too, and B samples."""
    rng = np.random.default_rng(seed)
    outputs = 1 if loss == "logistic" else 4
    model = MLP((*hidden, outputs), activation, loss, seed=seed, device="cpu", dtype=dtype)
    for name, array in model.params.items():
        if name.startswith("bias"):
            array[...] = 0.3 * rng.normal(size=array.shape)
    t = {"softmax": rng.integers(0, 4, B), "logistic": rng.integers(0, 2, B), "poisson": rng.poisson(2, (B, outputs))}
    return model, rng.normal(size=(B, hidden[0])).astype(dtype), t.get(loss, rng.normal(size=(B, outputs)))


def stored_norms(G):
    return np.sqrt(sum((g.reshape(len(g), -1).astype("float64") ** 2).sum(axis=1) for g in G.values()))


def torch_errors(torch, model, params, X, t):
    """The errors of the samples, built from torch's own functions."""
    functional, a = torch.nn.functional, X
    layers = len(model.sizes) - 1
    for k in range(layers):
        a = a @ params[f"weight{k}"] + params[f"bias{k}"]
        if k < layers - 1:
            a = {"relu": torch.relu, "tanh": torch.tanh}[model.activation](a)
    errors = {
        "squared": lambda: functional.mse_loss(a, t, reduction="none"),
        "huber": lambda: 2 * functional.huber_loss(a, t, reduction="none"),
        "poisson": lambda: functional.poisson_nll_loss(a, t, log_input=True, reduction="none"),
        "logistic": lambda: functional.binary_cross_entropy_with_logits(a, t, reduction="none"),
        "softmax": lambda: functional.cross_entropy(a, t, reduction="none").unsqueeze(-1),
    }
    return errors[model.criterion.name]().sum(-1)


@everywhere
@both_floats
def test_torch_agrees_on_gradients_and_on_those_of_each_sample(activation, loss, dtype, torch):
    model, X, t = made(activation, loss, dtype=dtype)
    _, targets = model._prepare(X, t)
    params = {name: torch.tensor(array) for name, array in model.params.items()}

    def error(params, x, t):
        return torch_errors(torch, model, params, x, t)

    batch = torch.tensor(X), torch.tensor(targets)
    of_each = torch.func.vmap(torch.func.grad(error), in_dims=(None, 0, 0))(params, *batch)
    value, grads = model.gradient(X, t)
    np.testing.assert_allclose(value, error(params, *batch).mean(), **TOLERANCE[dtype])
    G = model.per_sample_gradients(X, t)
    assert list(G) == list(grads) == list(model.params)
    for name, expected in of_each.items():
        np.testing.assert_allclose(G[name], expected, **TOLERANCE[dtype])
        np.testing.assert_allclose(grads[name], expected.mean(0), **TOLERANCE[dtype])
        assert grads[name].dtype == G[name].dtype == np.dtype(dtype)


@everywhere
def test_gradient_is_the_slope_of_the_loss(activation, loss):
    model, X, t = made(activation, loss)
    value, grads = model.gradient(X, t)
    assert value == pytest.approx(model.loss(X, t), rel=1e-13)
    h = 1e-6
    for name, array in model.params.items():
        for at in np.ndindex(array.shape):
            center, sides = array[at], []
            for side in (center + h, center - h):
                array[at] = side
                sides.append(model.loss(X, t))
            array[at] = center
            assert grads[name][at] == pytest.approx((sides[0] - sides[1]) / (2 * h), abs=2e-7)


@everywhere
@both_floats
def test_norms_are_those_of_stored_gradients(activation, loss, dtype):
    model, X, t = made(activation, loss, B=40, dtype=dtype)
    norms = model.sample_norms(X, t)
    assert norms.shape == (40,) and norms.dtype == np.dtype(dtype)
    rtol = {"float32": 1e-5, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(norms, stored_norms(model.per_sample_gradients(X, t)), rtol=rtol)


@pytest.mark.parametrize("activation", VARIANCES)
@both_floats
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("clipped", [0, 20, 40])
def test_clipping_is_that_of_stored_gradients(activation, dtype, reduction, clipped):
    model, X, t = made(activation, B=40, dtype=dtype)
    G = model.per_sample_gradients(X, t)
    ends = [0, *np.sort(stored_norms(G)), 9]
    max_norm = (ends[40 - clipped] + ends[41 - clipped]) / 2
    factors = gdgpu.clip_weights(stored_norms(G), max_norm)
    assert (factors < 1).sum() == clipped
    value, grads = model.gradient(X, t, max_norm=max_norm, reduction=reduction)
    assert value == pytest.approx(model.loss(X, t), rel=1e-6)
    for name, array in G.items():
        expected = np.tensordot(factors, array, 1) / (40 if reduction == "mean" else 1)
        np.testing.assert_allclose(grads[name], expected, **TOLERANCE[dtype])


def test_bounds_of_zero_and_infinity():
    model, X, t = made()
    assert not any(array.any() for array in model.gradient(X, t, max_norm=0)[1].values())
    plain, unbounded = (model.gradient(X, t, max_norm)[1] for max_norm in (None, math.inf))
    for name, array in plain.items():
        np.testing.assert_array_equal(unbounded[name], array)


def test_a_zero_gradient_is_not_divided_by_its_norm():
    model, X, _ = made(loss="squared")
    assert not model.sample_norms(X, model.predict(X)).any()
    assert not any(array.any() for array in model.gradient(X, model.predict(X), max_norm=1e-3)[1].values())


@pytest.mark.parametrize("activation", VARIANCES)
def test_a_sample_that_is_not_a_number_shows(activation):
    model, X, t = made(activation)
    X[3, 0] = np.nan
    norms = model.sample_norms(X, t)
    assert np.isnan(norms[3]) and np.isfinite(np.delete(norms, 3)).all()
    for max_norm in (None, 1.0):
        value, grads = model.gradient(X, t, max_norm)
        assert np.isnan(value) and all(np.isnan(array).all() for name, array in grads.items() if "bias" in name)


@everywhere
def test_an_empty_batch_is_zero(activation, loss):
    model, X, t = made(activation, loss, B=0)
    for max_norm in (None, 1.0):
        value, grads = model.gradient(X, t, max_norm)
        assert value == 0 == model.loss(X, t)
        for name, array in model.params.items():
            assert grads[name].shape == array.shape and not grads[name].any() and not np.signbit(grads[name]).any()
    assert model.sample_norms(X, t).shape == (0,) and len(model.predict(X)) == 0
    assert {name: G.shape for name, G in model.per_sample_gradients(X, t).items()} == {
        name: (0, *array.shape) for name, array in model.params.items()
    }


def test_batches_of_any_size_in_any_order_and_what_was_returned_stays():
    model, X, t = made(B=40)
    expected = {B: model.gradient(X[:B], t[:B], 0.5) for B in (7, 40, 1, 13)}
    for B in (40, 1, 13, 7, 40, 7):
        fresh = made(B=40)[0]
        for ours in (expected[B], model.gradient(X[:B], t[:B], 0.5)):
            value, grads = fresh.gradient(X[:B], t[:B], 0.5)
            assert ours[0] == value
            for name, array in grads.items():
                np.testing.assert_array_equal(ours[1][name], array)


def test_any_layout_is_taken_and_nothing_given_is_written():
    model, X, t = made(B=8)
    wide = np.zeros((16, 10))
    wide[::2, ::2] = X
    X_before, params = X.copy(), {name: array.copy() for name, array in model.params.items()}
    _, expected = model.gradient(X, t, 0.5)
    for same in (np.asfortranarray(X), wide[::2, ::2], X.tolist()):
        for name, array in model.gradient(same, t.tolist(), 0.5)[1].items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(X, X_before)
    for name, array in model.params.items():
        np.testing.assert_array_equal(array, params[name])


def test_the_answer_does_not_depend_on_threads(use_threads):
    model, X, t = made("tanh", B=40, dtype="float32")
    found = []
    for threads in (1, 2):
        use_threads(threads)
        found.append(model.gradient(X, t, 0.5)[1])
    for name, array in found[0].items():
        np.testing.assert_array_equal(found[1][name], array)


@pytest.mark.parametrize("max_norm", [None, 0.01])
def test_a_step_is_the_optimizers_step_of_the_gradient(max_norm):
    (model, X, t), (twin, _, _) = made(B=32), made(B=32)
    optimizer, reference = (gdgpu.Momentum(m.params, 0.1) for m in (model, twin))
    for _ in range(3):
        expected, grads = twin.gradient(X, t, max_norm)
        assert model.step(X, t, optimizer, max_norm=max_norm) == expected
        reference.step(grads)
    for name, array in twin.params.items():
        np.testing.assert_array_equal(model.params[name], array)


def test_clipped_training_stores_no_gradients_of_samples():
    B, sizes = 256, (64, 256, 256, 10)
    rng = np.random.default_rng(0)
    X, t = rng.normal(size=(B, 64)).astype("float32"), rng.integers(0, 10, B)
    G_bytes = 4 * B * sum((n_in + 1) * n_out for n_in, n_out in itertools.pairwise(sizes))
    model = MLP(sizes, device="cpu")
    optimizer = gdgpu.SGD(model.params, 0.1)

    def peak(function):
        tracemalloc.start()
        function()
        return tracemalloc.get_traced_memory()[1], tracemalloc.stop()

    step = lambda: model.step(X, t, optimizer, max_norm=1.0)  # noqa: E731
    assert peak(step)[0] < G_bytes / 20  # with all that is kept between steps
    assert peak(step)[0] < 1 << 16  # and later ones allocate nothing of note
    assert peak(lambda: model.per_sample_gradients(X, t))[0] > G_bytes  # which the measure would have seen


@pytest.mark.parametrize("activation", VARIANCES)
def test_weights_begin_with_the_variance_of_the_activation_on_every_run(activation):
    sizes = (300, 200, 100)
    model, same, other = (MLP(sizes, activation, seed=seed, device="cpu") for seed in (1, 1, 2))
    for layer, (n_in, n_out) in enumerate([(300, 200), (200, 100)]):
        weight = model.params[f"weight{layer}"]
        variance = {"relu": 2 / n_in, "tanh": 2 / (n_in + n_out)}[activation]
        assert weight.dtype == np.float32 and weight.shape == (n_in, n_out) and not model.params[f"bias{layer}"].any()
        assert weight.var() == pytest.approx(variance, rel=5 * math.sqrt(2 / weight.size))
        assert abs(weight.mean()) < 5 * math.sqrt(variance / weight.size)
        np.testing.assert_array_equal(weight, same.params[f"weight{layer}"])
        assert (weight != other.params[f"weight{layer}"]).mean() > 0.99


@pytest.mark.parametrize("activation", VARIANCES)
def test_learns_what_no_linear_model_can(activation):
    X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], "float32") * 2 - 1
    t = np.array([0, 1, 1, 0])
    model = MLP((2, 16, 2), activation, seed=0, device="cpu")
    gdgpu.fit(model, X, t, gdgpu.Momentum(model.params, 0.1), batch_size="full", epochs=200)
    assert model.metric(X, t) == 1 and model.loss(X, t) < 0.05


def test_a_layer_without_hidden_ones_is_softmax_regression():
    from gdgpu.models import SoftmaxRegression

    rng = np.random.default_rng(0)
    model, linear = MLP((5, 4), dtype="float64", device="cpu"), SoftmaxRegression(5, 4, dtype="float64", device="cpu")
    linear.params["weight"][...] = model.params["weight0"]
    X, t = rng.normal(size=(9, 5)), rng.integers(0, 4, 9)
    np.testing.assert_allclose(model.gradient(X, t)[1]["weight0"], linear.gradient(X, t)[1]["weight"], rtol=1e-12)
    np.testing.assert_allclose(model.sample_norms(X, t), linear.sample_norms(X, t), rtol=1e-12)


BAD_MODELS = [
    (((5,),), {}, ValueError, "sizes: expected two ints >= 1 or more, got 1"),
    ((5,), {}, TypeError, "sizes: expected two ints >= 1 or more, got int"),
    (((5, 0, 2),), {}, ValueError, r"sizes\[1\]: expected an int >= 1, got 0"),
    (((5, 2.5),), {}, TypeError, r"sizes\[1\]: expected an int >= 1, got 2\.5"),
    (((5, 1),), {}, ValueError, "sizes: softmax takes 2 outputs or more, got 1"),
    (((5, 2),), {"loss": "logistic"}, ValueError, "sizes: logistic takes 1 output, got 2"),
    (((5, 2),), {"activation": "gelu"}, ValueError, "activation: expected 'relu' or 'tanh', got 'gelu'"),
    (((5, 2),), {"loss": "hinge"}, ValueError, "loss: expected 'squared' or .*, got 'hinge'"),
    (((5, 2),), {"seed": -1}, ValueError, "seed: expected an int >= 0, got -1"),
    (((5, 2),), {"dtype": "float16"}, ValueError, 'dtype: expected "float32" or "float64", got .float16.'),
    (((5, 2),), {"device": "tpu"}, ValueError, "device: "),
]


@pytest.mark.parametrize(("args", "how", "error", "message"), BAD_MODELS)
def test_bad_settings_are_named(args, how, error, message):
    with pytest.raises(error, match=f"^{message}"):
        MLP(*args, **how)


BAD_CALLS = [
    ({"X": np.zeros((11, 4))}, ValueError, r"X: expected shape \(samples, 5\), got \(11, 4\)"),
    ({"t": np.full(11, 4)}, ValueError, r"t: expected classes in 0 \.\. 3, got 4"),
    ({"t": np.zeros(10, int)}, ValueError, "t: expected 11 targets, one for each sample of X, got 10"),
    ({"max_norm": -1}, ValueError, r"max_norm: expected a finite number >= 0, got -1\.0"),
    ({"max_norm": math.nan}, ValueError, "max_norm: expected a finite number >= 0, got nan"),
    ({"max_norm": "1"}, TypeError, "max_norm: expected a number, got str"),
]


@pytest.mark.parametrize(("given", "error", "message"), BAD_CALLS)
def test_bad_arguments_are_named_and_nothing_changes(given, error, message):
    model, X, t = made()
    optimizer = gdgpu.SGD(model.params, 0.1)
    before = {name: array.copy() for name, array in model.params.items()}
    call = {"X": X, "t": t} | given
    for method in (model.gradient, lambda **call: model.step(**call, optimizer=optimizer)):
        with pytest.raises(error, match=f"^{message}"):
            method(**call)
    for name, array in before.items():
        np.testing.assert_array_equal(model.params[name], array)


def test_reductions_and_optimizers_are_checked():
    model, X, t = made()
    with pytest.raises(ValueError, match=r"^reduction: expected 'mean' or 'sum', got 'max'"):
        model.gradient(X, t, reduction="max")
    with pytest.raises(ValueError, match=r"^optimizer: expected one made from this model's params"):
        model.step(X, t, gdgpu.SGD(made()[0].params, 0.1))
    with pytest.raises(TypeError, match=r"^optimizer: expected one of gdgpu's optimizers, got float"):
        model.step(X, t, 0.1)


NO_GPU = "the simulator is in its place" if devices.simulated() else devices.why_no_cuda()
ENVIRONMENTS = [
    pytest.param({"NUMBA_ENABLE_CUDASIM": "1"}, id="simulator"),
    pytest.param({}, id="gpu", marks=pytest.mark.skipif(NO_GPU is not None, reason=f"no GPU: {NO_GPU}")),
]
ANSWERS = """
import sys
import numpy as np
from gdgpu.devices import on_host
from gdgpu.models import MLP

def answers(device, activation):
    rng, found = np.random.default_rng(0), {}
    X, t = rng.normal(size=(9, 5)), rng.integers(0, 3, 9)
    model = MLP((5, 8, 4, 3), activation, device=device)
    for max_norm in (None, 0.5):
        found[f"loss {max_norm}"], grads = model.gradient(X, t, max_norm)
        found |= {f"{name} {max_norm}": array for name, array in grads.items()}
    found["norms"] = model.sample_norms(X, t)
    found["answers"] = model.predict(X)
    return {name: on_host(array) for name, array in found.items()}
"""


@pytest.mark.parametrize("activation", usual(list(VARIANCES), ["relu"]))
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_other_devices_agree(environment, activation, python, tmp_path):
    pytest.importorskip("numba_cuda", reason="numba-cuda has the simulator: install gdgpu[test]")
    here, there = {}, tmp_path / "there.npz"
    save = "np.savez(sys.argv[1], **answers('cuda', sys.argv[2]))"
    python(f"{ANSWERS}\n{save}", there, activation, **environment)
    exec(ANSWERS, here)
    expected = here["answers"]("cpu", activation)
    with np.load(there) as found:
        assert sorted(found) == sorted(expected)
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-6, err_msg=name)
