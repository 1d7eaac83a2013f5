"""Moving averages of the weights, against a loop in float64."""

import numpy as np
import pytest

import gdgpu
from support.arrays import arrays
from support.checks import refused
from support.covering import usual
from support.optimizers import make
from support.references import assert_same_bits, dtype_of, samples
from support.tolerances import TOLERANCE, close

CASES = [(label, dtype, decay) for label in ("SGD", "Adam", "LAMB") for dtype in TOLERANCE for decay in (0, 0.5, 0.99)]
FEW = [case for case in CASES if case[:2] != ("LAMB", "float64")]


@pytest.mark.parametrize(("label", "dtype", "decay"), usual(CASES, FEW))
def test_ema_is_a_moving_average(label, decay, dtype):
    """It starts at the weights; `ema` is the arrays themselves, in the structure of params."""
    params = dict(zip("ab", arrays(((30,), (4, 5)), [dtype] * 2, 1), strict=True))
    optimizer = make(label, params, ema=decay)
    averages = optimizer.ema
    expected = {k: w.astype("float64") for k, w in params.items()}
    for k, w in params.items():
        assert_same_bits(averages[k], w)
    for step in range(50):
        optimizer.step({k: samples(w.shape, dtype, step, wide=False) for k, w in params.items()})
        expected = {k: decay * a + (1 - decay) * params[k] for k, a in expected.items()}
    for k, a in expected.items():
        close(averages[k], a, dtype)
        assert averages[k] is optimizer.ema[k]


@pytest.mark.parametrize("master", (False, True))
@pytest.mark.parametrize("dtype", ("float16", "bfloat16"))
def test_ema_of_narrow_weights_is_of_what_is_rounded_to_them(dtype, master):
    """Of the masters, if there are any; steps that are lost in the narrow weights are not lost in an average."""
    w = np.ones(8, dtype_of(dtype))
    optimizer = gdgpu.SGD(w, 2.0**-12, ema=0.5, master=master)
    wide, average = 1.0, 1.0
    for _ in range(4):
        optimizer.step(np.ones(8, dtype_of(dtype)))
        wide = (wide if master else 1.0) - 2.0**-12
        average = 0.5 * average + 0.5 * wide
    assert_same_bits(optimizer.ema, np.full(8, average, np.float32))
    assert_same_bits(w, np.full(8, wide if master else 1.0).astype(w.dtype))


def test_a_step_that_is_skipped_is_not_averaged():
    w = samples((20,), "float32", wide=False)
    optimizer = gdgpu.Adam(w, 0.1, ema=0.9)
    optimizer.step(w.copy())
    before = optimizer.ema.copy()
    optimizer.step(w.copy(), found_inf=True)
    assert_same_bits(optimizer.ema, before)


def test_without_ema_there_is_none():
    with pytest.raises(AttributeError, match="sgd was made without ema"):
        _ = gdgpu.SGD(np.zeros(3), 0.1).ema


@pytest.mark.parametrize("ema", (1, 1.0, 1.5, -0.1, np.nan, "0.9", True))
def test_an_ema_that_is_refused(ema):
    with refused("ema"):
        gdgpu.SGD(np.zeros(3), 0.1, ema=ema)
