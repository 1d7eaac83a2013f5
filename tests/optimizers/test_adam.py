"""Adam means what torch.optim.Adam and its closed forms say; its running products are kept, saved and restored."""

import inspect
import json

import numpy as np
import pytest

import gdgpu
from support.checks import refused
from support.covering import usual
from support.optimizers import schedule
from support.references import DTYPES, assert_same_bits, dtype_of, samples, sums_of
from support.tolerances import TOLERANCE, close

STEPS = 200


def drawn(seed):
    """Hyperparameters from the ranges that torch documents; one in five betas is near 1, where training has it."""
    rng = np.random.default_rng(seed)
    betas = rng.uniform(0, 1, 2) if seed % 5 else 1 - 10 ** rng.uniform(-4, -1, 2)
    return {
        "lr": 10 ** rng.uniform(-5, 0),
        "betas": tuple(betas.tolist()),
        "eps": 10 ** rng.uniform(-16, 0),
        "weight_decay": float(rng.choice([0, 10 ** rng.uniform(-4, 0)])),
        "maximize": bool(rng.integers(2)),
    }


CORNERS = [
    {},
    {"betas": (0.0, 0.0)},
    {"betas": (0.0, 0.999)},
    {"betas": (0.9, 0.0)},
    {"eps": 0},
    {"lr": 0},
    {"lr": 0.01, "weight_decay": 0.1, "maximize": True},
    {"lr": schedule, "betas": (0.8, 0.99)},
]


def label(hyper):
    return "-".join(f"{k}={getattr(v, '__name__', v)}" for k, v in hyper.items()) or "defaults"


def like_torch(hyper, dtype, steps=STEPS):
    """Take the steps with both; compare parameters and state."""
    torch = pytest.importorskip("torch", reason="torch.optim.Adam is the reference")
    w, gradients = samples((50,), dtype, wide=False), samples((steps, 50), dtype, 1, wide=False)
    theirs = torch.tensor(w, requires_grad=True)
    lr = hyper.get("lr", 1e-3)
    reference = torch.optim.Adam([theirs], **hyper | {"lr": lr(0) if callable(lr) else lr})
    ours = gdgpu.Adam(w, **hyper)
    for step, g in enumerate(gradients):
        ours.step(g)
        reference.param_groups[0]["lr"] = lr(step) if callable(lr) else lr
        theirs.grad = torch.from_numpy(g)
        reference.step()
    close(w, theirs.detach().numpy(), dtype)
    state = ours.state_dict()["state"]
    assert set(state) == {"exp_avg", "exp_avg_sq"}
    for name, array in state.items():
        close(array, reference.state[theirs][name].numpy(), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("hyper", CORNERS, ids=label)
def test_adam_is_torchs(hyper, dtype):
    like_torch(hyper, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("seed", range(20))
def test_adam_is_torchs_wherever_hyperparameters_lie(seed, dtype):
    like_torch(drawn(seed), dtype)


def test_defaults_are_torchs():
    torch = pytest.importorskip("torch", reason="its defaults are the reference")
    theirs = inspect.signature(torch.optim.Adam).parameters
    for name, ours in inspect.signature(gdgpu.Adam).parameters.items():
        if name != "common":  # the keywords that all of ours have
            assert ours.default == theirs[name].default


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("betas", [(0, 0), (0.9, 0.999), (0.3, 0.9999)])
def test_a_constant_gradient_moves_each_weight_by_lr(betas, dtype):
    """Both means, corrected, are then the gradient and its square: w_t = w_0 - lr * t * sign(g), whatever its size."""
    g = np.array([3e-5, -2.0, 7e4, -1.0], dtype)
    w = np.zeros(4, dtype)
    optimizer = gdgpu.Adam(w, 0.25, betas=betas, eps=0)
    for t in range(1, 21):
        optimizer.step(g)
        close(w, -0.25 * t * np.sign(g), dtype)


WEIGHTED = [(dtype, weighted) for dtype in DTYPES for weighted in (False, True)]
IN_TURN = [(dtype, k % 2 > 0) for k, dtype in enumerate(DTYPES)]  # test_fused.py has all of momentum's


@pytest.mark.parametrize(("dtype", "weighted"), usual(WEIGHTED, IN_TURN))
def test_step_samples_is_a_step_of_reduce_samples(dtype, weighted):
    G, weights = samples((5, 70, 41), dtype), samples((70,), "float64", 2) if weighted else None
    one = samples((41,), dtype, 1)
    two = one.copy()
    fused, apart = (gdgpu.Adam(w, 0.01, weight_decay=0.1) for w in (one, two))
    for batch in G:
        fused.step_samples(batch, weights)
        apart.step(gdgpu.reduce_samples(batch, weights))
    assert_same_bits(one, two)
    for name, array in fused.state_dict()["state"].items():
        assert_same_bits(array, apart.state_dict()["state"][name])


def test_each_dtype_advances_once_a_step():
    """Parameters of all dtypes in one optimizer: as if alone, and running products of as many steps as were taken."""
    params = {d: samples((33,), d) for d in DTYPES}
    alone = {d: w.copy() for d, w in params.items()}
    together, betas = gdgpu.Adam(params, 0.01, betas=(0.5, 0.75)), (0.5, 0.75)
    each = {d: gdgpu.Adam(w, 0.01, betas=betas) for d, w in alone.items()}
    for step in range(1, 4):
        grads = {d: samples((33,), d, step) for d in DTYPES}
        together.step(grads)
        for d, optimizer in each.items():
            optimizer.step(grads[d])
    for d in DTYPES:
        assert_same_bits(params[d], alone[d])
    powers = [[0.5**3, 0.75**3]]
    assert together.state_dict()["carried"] == {"adam/float32": powers, "adam/float64": powers}


@pytest.mark.parametrize("dtype", DTYPES)
def test_state_has_the_accumulators_precision(dtype):
    """Without weight decay the means depend on the gradients alone: those of a wider parameter are the same."""
    narrow, wide = np.ones(40, dtype_of(dtype)), np.ones(40, sums_of(dtype))
    one, two = gdgpu.Adam(narrow, 2.0**-20), gdgpu.Adam(wide, 2.0**-20)
    for g in samples((5, 40), dtype):
        one.step(g)
        two.step(g.astype(wide.dtype))
    for name, array in one.state_dict()["state"].items():
        assert_same_bits(array, two.state_dict()["state"][name])
    if narrow.dtype != wide.dtype:
        assert (narrow == 1).all() and (wide != 1).any()  # each step is lost in so narrow a parameter


def through_json(saved):
    """What is not an array goes to text and back."""
    return json.loads(json.dumps({k: v for k, v in saved.items() if k != "state"})) | {"state": saved["state"]}


@pytest.mark.parametrize("carry", (lambda saved: saved, through_json), ids=("as it is", "JSON"))
@pytest.mark.parametrize("lr", (0.03, schedule))
def test_state_can_be_carried_over(lr, carry):
    params = {"a": samples((6, 5), "float32"), "b": samples((9,), "float64"), "c": samples((5,), "bfloat16")}
    gradients = [{k: samples(w.shape, w.dtype.name, s) for k, w in params.items()} for s in range(1, 8)]
    straight = gdgpu.Adam(params, lr, betas=(0.7, 0.93), eps=1e-3, weight_decay=0.1, maximize=True)
    for g in gradients[:3]:
        straight.step(g)
    copies = {k: w.copy() for k, w in params.items()}
    saved = carry(straight.state_dict())
    assert saved["optimizer"] == "adam" and saved["steps"] == 3
    resumed = gdgpu.Adam(copies, lr if callable(lr) else 0.5)
    resumed.load_state_dict(saved)
    for g in gradients[3:]:
        straight.step(g)
        resumed.step(g)
    for k, w in params.items():
        assert_same_bits(copies[k], w)
    assert resumed.state_dict()["carried"] == straight.state_dict()["carried"]


BAD_CARRIED = {
    "missing": lambda saved: {k: v for k, v in saved.items() if k != "carried"},
    "none": lambda saved: saved | {"carried": None},
    "empty": lambda saved: saved | {"carried": {}},
    "a row": lambda saved: saved | {"carried": {"adam/float64": [0.9, 0.999]}},
    "three": lambda saved: saved | {"carried": {"adam/float64": [[0.9, 0.999, 0.5]]}},
    "two groups": lambda saved: saved | {"carried": {"adam/float64": [[0.9, 0.999]] * 2}},
    "nan": lambda saved: saved | {"carried": {"adam/float64": [[0.9, float("nan")]]}},
    "text": lambda saved: saved | {"carried": {"adam/float64": [["0.9", "a"]]}},
}


@pytest.mark.parametrize("case", BAD_CARRIED)
def test_running_products_that_are_refused(case):
    w, other = np.ones(3), np.ones(3)
    optimizer, untouched = gdgpu.Adam(w, 0.1), gdgpu.Adam(other, 0.1)
    bad = BAD_CARRIED[case](gdgpu.Adam(np.ones(3), 0.7, betas=(0.2, 0.3)).state_dict())
    with refused("state_dict", ValueError):
        optimizer.load_state_dict(bad)
    for g in samples((3, 3), "float64"):
        optimizer.step(g)
        untouched.step(g)
    assert_same_bits(w, other)


REFUSED = {
    "lr": (-1e-9, np.nan, np.inf, "0.1", None),
    "betas": (0.9, None, (0.9,), (0.9, 0.99, 0.999), (1.0, 0.9), (0.9, 1), (-0.1, 0.9), (0.9, np.nan), ("0.9", 0.9)),
    "eps": (-1e-9, np.inf, None),
    "weight_decay": (-0.1, np.nan, "0"),
    "maximize": (1, None),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values])
def test_hyperparameters_that_are_refused(name, value):
    with refused(name):
        gdgpu.Adam(np.zeros(3), **{name: value})
