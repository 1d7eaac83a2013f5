"""A step that found_inf forbids: as if nobody had asked for it, whichever it was and whatever was asked for with it."""

import numpy as np
import pytest

import gdgpu
from support.arrays import arrays, copies
from support.covering import usual
from support.grad_scaling import spoiled
from support.optimizers import OPTIMIZERS, make, snapshot
from support.references import DTYPES, assert_same_bits, samples
from support.skeletons import counting, one_of_each

STEPS = 5
SHAPES = ((300,), (7, 9), (1,), (0,), (1100,))
FLOATS = ["float32"] * len(SHAPES)


def rate(steps):
    return 0.1 / (1 + steps)


def compare(label, skipped, dtypes=FLOATS, lr=0.1, asked=(), bound=False, **common):
    """Steps of which these are skipped, with inf or NaN in their gradients, and an optimizer that never saw those."""
    asked = dict(asked)
    params = arrays(SHAPES, dtypes, 1)
    plain, found = copies(params), np.zeros(1, np.float32)
    one, two = (make(label, some, lr, **common) for some in (params, plain))
    memory = arrays(SHAPES, dtypes, 0)
    run = one.bind(memory, found_inf=found, **asked) if bound else lambda: one.step(memory, found_inf=found, **asked)
    for step in range(STEPS):
        grads = arrays(SHAPES, dtypes, 100 * (step + 1))
        found[0] = step in skipped
        given = spoiled(grads, np.nan if step % 2 else np.inf) if found else grads
        for array, g in zip(memory, given, strict=True):
            array[...] = g
        before = snapshot(one)
        run()
        if found:
            assert snapshot(one) == before
        else:
            two.step(copies(grads), **asked)
        for array, g in zip(memory, given, strict=True):
            assert_same_bits(array, np.zeros_like(g) if asked.get("zero_grads") else g)
        assert snapshot(one) == snapshot(two)
    assert one.steps == STEPS - len(skipped)
    assert any((w != old).any() for w, old in zip(params, arrays(SHAPES, dtypes, 1), strict=True))


@pytest.mark.parametrize("lr", (0.1, rate), ids=("constant", "function"))
@pytest.mark.parametrize("at", (0, 2, STEPS - 1), ids=("first", "middle", "last"))
@pytest.mark.parametrize("label", usual(OPTIMIZERS, one_of_each(counting)))
def test_the_first_a_middle_or_the_last(label, at, lr):
    compare(label, {at}, lr=lr)


@pytest.mark.parametrize("skipped", ({0, 1}, {0, 2, 3}, {1, 2, 3, 4}), ids=str)
@pytest.mark.parametrize("bound", (False, True), ids=("step", "bind"))
@pytest.mark.parametrize("label", ("Adam", "NAdam", "LAMB"))
def test_several(label, bound, skipped):
    compare(label, skipped, bound=bound, lr=rate)


ASKED = {"zero_grads": True}, {"clip_norm": 1.0}, {"grad_scale": 3.0, "clip_value": 0.1, "zero_grads": True}
WITH = [(label, asked) for label in ("Adam", "LAMB", "SGD") for asked in ASKED]


@pytest.mark.parametrize(("label", "asked"), usual(WITH, WITH[::4]), ids=str)
def test_with_what_else_a_step_does(label, asked):
    """Gradients are zeroed all the same; a norm that is not finite is gone by the next step."""
    compare(label, {0, 2}, asked=asked)


@pytest.mark.parametrize(
    "common",
    (
        {"state_dtype": "uint8"},
        {"state_dtype": "bfloat16"},
        {"state_dtype": "uint8", "rounding": "stochastic"},
        {"ema": 0.5},
    ),
    ids=str,
)
def test_however_state_is_kept(common):
    """Bits that round at random are those of the step: a skipped one takes none."""
    compare("Adam", {0, 3}, asked={"zero_grads": True}, **common)


@pytest.mark.parametrize("label", usual(("Adam", "LAMB", "SGD-dampening"), ("SGD-dampening",)))
def test_with_masters_in_16_bits(label):
    compare(label, {0, 3}, ["bfloat16", "float16", "bfloat16", "float16", "float16"], master=True, ema=0.5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype):
    compare("Adam", {0, 3}, [dtype] * len(SHAPES))


@pytest.mark.parametrize("label", usual(("Adam", "SGD", "SGD-dampening", "LARS"), ("Adam", "SGD-dampening")))
def test_several_dtypes_are_one_step(label):
    compare(label, {0, 3}, ["float32", "bfloat16", "float64", "float16", "float64"], lr=rate)


def test_groups():
    params = arrays(SHAPES[:2], FLOATS[:2], 1)
    plain = copies(params)
    options = {"betas": (0.5, 0.75), "lr": rate, "maximize": True}
    one, two = (gdgpu.Adam([{"params": [a]} | options, {"params": [b]}], 0.1) for a, b in (params, plain))
    for step in range(STEPS):
        grads = [[samples(w.shape, "float32", step)] for w in params]
        one.step(grads, found_inf=step in (0, 3))
        if step not in (0, 3):
            two.step(grads)
    assert snapshot(one) == snapshot(two) and one.steps == 3


@pytest.mark.parametrize("label", ("SGD", "SGD-dampening", "RAdam", "LAMB"))
def test_other_ways_of_stepping_before_and_after(label):
    """Steps that were bound before the first that may be skipped, and steps with samples, are counted with the rest."""
    w, g, G = samples((40,), "float32"), samples((40,), "float32", 1), samples((33, 40), "float32", 2)
    plain = w.copy()
    one, two = make(label, w, rate), make(label, plain, rate)
    runs, expected = (one.bind(g), one.bind_samples(G)), (lambda: two.step(g), lambda: two.step_samples(G))
    for k in range(6):
        runs[k % 2]()
        expected[k % 2]()
        before = snapshot(one)
        one.step(spoiled([g])[0], found_inf=True)
        assert snapshot(one) == before
        one.step_samples(G)
        two.step_samples(G)
        assert snapshot(one) == snapshot(two) and one.steps == 2 * (k + 1)


@pytest.mark.parametrize("label", ("SGD", "SGD-dampening", "LAMB"))
@pytest.mark.parametrize("skipping", (False, True), ids=("into one that never skipped", "into one that did"))
def test_a_count_with_skipped_steps_is_saved_and_restored(label, skipping):
    w, g = samples((40,), "float32"), samples((40,), "float32", 1)
    one = make(label, w, rate)
    for found in (True, False, True, False):
        one.step(g, found_inf=found)
    saved, copy = one.state_dict(), w.copy()
    assert saved["steps"] == 2 and isinstance(saved["steps"], int)
    other = make(label, copy, rate)
    if skipping:
        other.step(np.zeros_like(g), found_inf=True)
    other.load_state_dict(saved)
    for found in (True, False):
        one.step(g, found_inf=found)
        other.step(g, found_inf=found)
    assert snapshot(one) == snapshot(other) and other.steps == 3
