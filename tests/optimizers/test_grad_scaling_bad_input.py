"""What surrounds a step is checked, by name, before anything is touched."""

import numpy as np
import pytest

import gdgpu
from support.arrays import arrays, copies, readonly
from support.checks import refused
from support.optimizers import snapshot
from support.references import assert_same_bits, samples

ONE = np.ones(1, np.float32)
BAD = {
    "grad_scale": (0, -1.0, np.nan, np.inf, 1e39, 1e-60, "2", True, [1.0], ONE.astype("f8"), np.ones(2, "f4"), ONE[:0]),
    "found_inf": (0, 1, 1.0, 0.0, "no", np.array(True), ONE.astype("i4"), np.zeros((2, 1), "f4"), np.float32(1)),
    "clip_value": (-1, -1e-9, np.nan, np.inf, "1", True, -ONE, np.ones(2, "f4"), [1.0]),
    "clip_norm": (-1, np.nan, np.inf, "1", False, -ONE, np.ones(2, "f4"), [1.0]),
    "zero_grads": (1, None, "yes"),
}


@pytest.mark.parametrize(("name", "bad"), [(name, bad) for name, row in BAD.items() for bad in row], ids=repr)
def test_bad_arguments_are_named_and_nothing_changes(name, bad):
    w, g = samples((5,), "float32"), samples((5,), "float32", 1)
    optimizer, gradient = gdgpu.Momentum(w, 0.1), g.copy()
    optimizer.step(g)
    before = snapshot(optimizer)
    for call in (optimizer.step, optimizer.bind):
        with refused(name):
            call(g, **{"zero_grads": True} | {name: bad})
    assert snapshot(optimizer) == before
    assert_same_bits(g, gradient)


def test_one_norm_has_one_precision():
    params, grads = (arrays(((300,), (7, 9)), ("float32", "float64"), seed) for seed in (1, 2))
    optimizer = gdgpu.Momentum(params, 0.1)
    before = snapshot(optimizer)
    with refused("clip_norm"):
        optimizer.step(grads, clip_norm=1.0)
    assert snapshot(optimizer) == before
    optimizer.step(grads, clip_value=1.0)


SHARED = samples((8,), "float32")
GRADIENTS = {
    "read-only": (lambda: [readonly(np.ones(4, np.float32)), np.ones(4, np.float32)], True),
    "one array twice": (lambda: [SHARED[:4], SHARED[:4]], True),
    "overlapping": (lambda: [SHARED[:4], SHARED[3:7]], True),
    "neighbours": (lambda: [SHARED[:4], SHARED[4:]], False),
}


@pytest.mark.parametrize("case", GRADIENTS)
def test_gradients_that_are_zeroed_are_written(case):
    """What is read may be read-only, and be there twice; what is written may not."""
    made, is_refused = GRADIENTS[case]
    params, grads = [np.zeros(4, np.float32) for _ in range(2)], made()
    before = copies(grads)
    optimizer = gdgpu.Momentum(params, 0.1)
    if is_refused:
        with refused("grads"):
            optimizer.step(grads, zero_grads=True)
        assert optimizer.steps == 0 and not any(w.any() for w in params)
        for g, old in zip(grads, before, strict=True):
            assert_same_bits(g, old)
        optimizer.step(grads)
        assert all(w.all() for w in params)
    else:
        optimizer.step(grads, zero_grads=True)
        assert not any(g.any() for g in grads)


@pytest.mark.parametrize("name", ("grad_scale", "found_inf"))
def test_scalars_in_memory_that_is_written_are_refused(name):
    w, g = np.ones(4, np.float32), np.ones(4, np.float32)
    optimizer = gdgpu.SGD(w, 0.1)
    for array, zero_grads in ((w[1:2], False), (g[1:2], True)):
        with refused(name):
            optimizer.step(g, **{name: array}, zero_grads=zero_grads)
    assert (w == 1).all() and (g == 1).all()
    optimizer.step(g, grad_scale=g[1:2])
    np.testing.assert_array_equal(w, np.float32(1) - np.float32(0.1))
