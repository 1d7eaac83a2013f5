"""The adaptive optimizers against torch.optim, parameters and state; Lion against its paper in float64."""

import numpy as np
import pytest

import gdgpu
from gdgpu.optimizers import torch_state_dict
from support.covering import usual
from support.optimizers import NAMES
from support.papers import lion
from support.references import samples
from support.tolerances import far

STEPS = 200
LIMITS = {"float64": 1e-12, "float32": 1e-5}
ADAPTIVE = [name for name in NAMES if getattr(gdgpu, name).__module__.rpartition(".")[2] in ("adagrad", "adam", "lion")]
TORCHS = [name for name in ADAPTIVE if name in torch_state_dict.NAMES]


def hyperparameters(name, seed):
    """Random ones from the ranges that torch documents; what is on or off is so for some seeds of every optimizer."""
    rng = np.random.default_rng([seed, *name.encode()])
    found = {"lr": float(rng.uniform(1e-4, 0.1)), "eps": float(10.0 ** rng.uniform(-10, -4))}
    found |= {"weight_decay": float(rng.uniform(0, 0.1)) * (seed != 4), "maximize": seed in (1, 2)}
    if name == "Adagrad":
        found |= {"lr_decay": float(rng.choice([0, 0.01])), "initial_accumulator_value": float(rng.choice([0, 0.1]))}
    elif name == "RMSprop":
        found |= {"alpha": float(rng.uniform(0.5, 0.99)), "momentum": 0.9 * (seed in (2, 4)), "centered": seed > 2}
    elif name == "Adadelta":
        found |= {"rho": float(rng.uniform(0.5, 0.99))}
    else:
        found |= {"betas": (float(rng.uniform(0, 0.99)), float(rng.uniform(0.5, 0.9999)))}
    if name in ("Adam", "AdamW"):
        found |= {"amsgrad": seed > 2}
    if name in ("NAdam", "RAdam"):
        found |= {"decoupled_weight_decay": seed > 2}
    if name == "NAdam":
        found |= {"momentum_decay": float(rng.uniform(0, 0.01))}
    return found


DRAWN = [(name, seed, dtype) for name in TORCHS for seed in range(5) for dtype in LIMITS]
# In float32 the defaults, which others compile too; in float64 those, and what brings every rule.
FEW_DRAWN = [(name, seed, dtype) for name, seed, dtype in DRAWN if seed == 0 or (dtype == "float64" and seed > 1)]


@pytest.mark.parametrize(("name", "seed", "dtype"), usual(DRAWN, FEW_DRAWN))
def test_as_torch(name, seed, dtype, torch):
    limit = LIMITS[dtype]
    hyper = hyperparameters(name, seed) if seed else {}
    start = np.random.default_rng(seed).standard_normal(50).astype(dtype)
    ours, theirs = start.copy(), torch.nn.Parameter(torch.from_numpy(start.astype("float64")))
    optimizer, reference = getattr(gdgpu, name)(ours, **hyper), getattr(torch.optim, name)([theirs], **hyper)
    for step in range(STEPS):
        g = np.random.default_rng([seed, step]).standard_normal(50).astype(dtype)
        theirs.grad = torch.from_numpy(g.astype("float64"))
        optimizer.step(g)
        reference.step()
    assert far(ours, theirs.detach().numpy()) <= limit
    state = optimizer.state_dict(torch=True)["state"][0]
    assert state.keys() == reference.state[theirs].keys()
    for key, array in state.items():
        assert far(array.numpy(), reference.state[theirs][key].numpy()) <= limit


@pytest.mark.parametrize("seed", range(3))
def test_lion_as_in_its_paper(seed):
    rng = np.random.default_rng(seed)
    lr, betas, decay = rng.uniform(1e-4, 0.1), tuple(rng.uniform(0.1, 0.999, 2)), rng.uniform(0, 0.1)
    w = rng.standard_normal(50)
    expected, state, ours = w.copy(), {}, w.copy()
    optimizer = gdgpu.Lion(ours, lr, betas, decay)
    for step in range(STEPS):
        g = rng.standard_normal(50)
        optimizer.step(g)
        expected, state = lion(expected, g, state, step, lr, betas, decay, False)
    assert far(ours, expected) <= 1e-12
    assert far(optimizer.state_dict()["state"]["exp_avg"], state["exp_avg"]) <= 1e-12


@pytest.mark.parametrize("name", ADAPTIVE)
def test_defaults_are_torchs_and_reach_every_way_of_stepping(name):
    """step_samples is step of the reduced gradient, to the bit; state goes on where it was; lr may be a function."""
    w, G = samples((40,), "float32"), samples((70, 40), "float32", 1)
    one, two, three = w.copy(), w.copy(), w.copy()
    straight, fused = getattr(gdgpu, name)(one), getattr(gdgpu, name)(two)
    scheduled = getattr(gdgpu, name)(three, lr=lambda steps: straight.lr)
    g = gdgpu.reduce_samples(G)
    for _ in range(3):
        straight.step(g)
        fused.step_samples(G)
        scheduled.bind(g)()
    assert one.tobytes() == two.tobytes() == three.tobytes() and (one != w).any()
    saved, resumed = straight.state_dict(), one.copy()
    other = getattr(gdgpu, name)(resumed, lr=0.5)
    other.load_state_dict(saved)
    straight.step(g)
    other.step(g)
    assert one.tobytes() == resumed.tobytes()


BAD = {
    "Adagrad": {"lr_decay": -1, "initial_accumulator_value": -0.1, "eps": -1e-9},
    "Adadelta": {"rho": 1.0, "eps": float("nan")},
    "AdamW": {"betas": (0.9, 1.0), "weight_decay": -1, "eps": -1},
    "Adamax": {"betas": (-0.1, 0.9), "maximize": 1},
    "NAdam": {"momentum_decay": -0.004, "betas": 0.9},
    "Lion": {"betas": (0.9,), "weight_decay": float("inf")},
}


@pytest.mark.parametrize(("name", "argument"), [(name, key) for name, row in BAD.items() for key in row])
def test_bad_hyperparameters_are_named(name, argument):
    with pytest.raises((TypeError, ValueError), match=f"^{argument}"):
        getattr(gdgpu, name)(np.zeros(3), **{argument: BAD[name][argument]})
