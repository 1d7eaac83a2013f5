"""What may be assigned, and what continues with the state: everything else is refused, and nothing changes."""

import numpy as np
import pytest

import gdgpu
from gdgpu import checkpoint
from support.copies import pickled

KINDS = {
    "plain": (gdgpu.SGD, {}),
    "running products": (gdgpu.Adam, {}),
    "counted in memory": (gdgpu.Adam, {"rounding": "stochastic", "state_dtype": "bfloat16"}),
}
BAD_STEPS = ("x", None, -5, 2.5, 2**70, 2**63, float("nan"), True, [3], np.float64(3), np.ones(2, int))
GOOD_STEPS = (0, 7, np.int32(7), np.uint64(7), np.array(7), 2**63 - 1)


def made(kind, value=1.0):
    new, options = KINDS[kind]
    optimizer = new(np.full(6, value, np.float32), 0.125, **options)
    optimizer.step(np.ones(6, np.float32))
    return optimizer


def snapshot(optimizer):
    return repr((optimizer.params, optimizer.state_dict()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", BAD_STEPS, ids=lambda steps: f"{type(steps).__name__} {steps}")
def test_steps_that_are_no_count(kind, steps):
    optimizer = made(kind)
    before = snapshot(optimizer)
    with pytest.raises((TypeError, ValueError), match=r"\Asteps: expected an int [^\n]*\Z"):
        optimizer.steps = steps
    with pytest.raises(ValueError, match=r"\Astate_dict\['steps'\]: expected an int [^\n]*\Z"):
        optimizer.load_state_dict(optimizer.state_dict() | {"steps": steps})
    assert snapshot(optimizer) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", GOOD_STEPS, ids=lambda steps: f"{type(steps).__name__} {steps}")
def test_steps_are_an_int_whatever_counted_them(kind, steps, tmp_path):
    optimizer, other = made(kind), made(kind)
    optimizer.steps = steps
    assert type(optimizer.steps) is int and optimizer.steps == steps
    checkpoint.save_optimizer(tmp_path / "a.safetensors", optimizer)
    checkpoint.load_optimizer(tmp_path / "a.safetensors", other)
    assert other.steps == steps
    other.load_state_dict(optimizer.state_dict() | {"steps": np.int64(3)})
    assert other.steps == 3


def test_the_count_of_an_accumulator_is_its_own():
    with pytest.raises(AttributeError, match="count"):
        gdgpu.Accumulator(np.ones(3)).count = 5


STORED = {"uint8": {"state_dtype": "uint8"}, "bfloat16": {"state_dtype": "bfloat16"}, "params": {}}


@pytest.mark.parametrize("through", ("state_dict", "checkpoint"))
@pytest.mark.parametrize("stored", STORED)
def test_the_seed_goes_on_with_the_state(stored, through, tmp_path):
    """A run that is continued by an optimizer of another seed has the bits of the one that was not interrupted."""
    g = np.random.default_rng(0).standard_normal((6, 1000)).astype("float32")
    dtype = "float16" if stored == "params" else "float32"

    def new(seed):
        w = np.ones(1000, dtype)
        return w, gdgpu.Adam(w, 0.01, rounding="stochastic", seed=seed, **STORED[stored])

    whole, first = new(1)
    for k, row in enumerate(g):
        if k == 3:
            saved, weights = first.state_dict(), whole.copy()
            checkpoint.save_optimizer(tmp_path / "a.safetensors", first)
        first.step(row)
    rest, second = new(2)
    run = second.bind(g[0])  # bound before: it goes on right, too
    if through == "checkpoint":
        checkpoint.load_optimizer(tmp_path / "a.safetensors", second)
    else:
        rest[...] = weights
        second.load_state_dict(saved)
    assert second.state_dict()["seed"] == 1
    assert "seed=1;" in repr(second) and pickled(second).state_dict()["seed"] == 1
    for row in g[3:5]:
        second.step(row)
    g[0] = g[5]
    run()
    assert (rest.view(f"u{rest.itemsize}") == whole.view(f"u{rest.itemsize}")).all()


def test_a_state_without_a_seed_leaves_the_optimizers_own():
    w = np.ones(8, np.float32)
    optimizer = gdgpu.Adam(w, 0.01, rounding="stochastic", seed=5)
    saved = optimizer.state_dict()
    optimizer.load_state_dict({key: value for key, value in saved.items() if key != "seed"})
    assert optimizer.state_dict()["seed"] == 5
    for bad in (-1, 1.5, "1", None):
        with pytest.raises(ValueError, match=r"\Astate_dict\['seed'\]: expected an int >= 0[^\n]*\Z"):
            optimizer.load_state_dict(saved | {"seed": bad})
    assert "seed" not in gdgpu.Adam(w, 0.01).state_dict()
