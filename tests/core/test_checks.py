"""Numbers of any library are taken by value: NumPy's, torch's, arrays of one; anything else is named."""

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

import gdgpu
from gdgpu.core.checks import count, number


class OnDevice:
    """What a number needs of a CuPy array."""

    def __init__(self, array):
        self.array = array

    def item(self):
        return self.array.item()


FLOATS = (*(np.dtype(kind).type for kind in ("f2", "f4", "f8", "g")), ml_dtypes.bfloat16, float)
INTS = (*(np.dtype(kind).type for kind in ("i1", "u2", "i8", "u8")), int)
WRAPS = {
    "itself": lambda value: value,
    "0-d": np.array,
    "one element": lambda value: np.array([value]),
    "1 x 1": lambda value: np.array([[value]]),
    "on a device": lambda value: OnDevice(np.array(value)),
}


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("kind", (*FLOATS, *INTS), ids=lambda kind: kind.__name__)
def test_a_number_is_taken_by_value(kind, wrap):
    given = WRAPS[wrap](kind(3))
    taken = number("lr", given)
    assert type(taken) is float and taken == 3
    if kind in INTS:
        assert type(count("seed", given)) is int and count("seed", given) == 3
    else:
        with pytest.raises(TypeError, match=r"\Aseed: expected an int >= 0, got [^\n]*\Z"):
            count("seed", given)


@pytest.mark.parametrize("dtype", ("float32", "float64", "bfloat16", "int64"))
def test_a_tensor_of_torch_is_taken_by_value(torch, dtype):
    for shape in ((), (1,)):
        tensor = torch.full(shape, 3, dtype=getattr(torch, dtype))
        assert number("lr", tensor) == number("lr", tensor.requires_grad_(dtype != "int64")) == 3
    with pytest.raises(TypeError, match=r"\Alr: expected a number, got Tensor\Z"):
        number("lr", torch.ones(2))
    with pytest.raises(TypeError, match=r"\Alr: expected a number, got Tensor\Z"):
        number("lr", torch.tensor(True))


NO_NUMBERS = (True, np.True_, np.array(True), np.array([False]), np.ones(2), np.ones(0), np.array([]), 1j, np.array(1j))
NO_NUMBERS += (np.complex64(1), "1", np.str_("1"), np.array("1"), b"1", None, [1.0], (1,), {1.0}, {"item": 1}, object())
NO_NUMBERS += (np.array(None), np.array([[1.0], [2.0]]), np.datetime64("2020"), OnDevice(np.ones(2)), len)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: type(value).__name__)
def test_what_is_no_number_is_named(value):
    with pytest.raises(TypeError, match=rf"\Alr: expected a number, got {type(value).__name__}\Z"):
        number("lr", value)
    with pytest.raises(TypeError, match=r"\Aseed: expected an int >= 0, got [^\n]*\Z"):
        count("seed", value)


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("value", (math.nan, math.inf, -math.inf, -1.0, np.float16("nan")), ids=str)
def test_a_number_out_of_its_range(wrap, value):
    with pytest.raises(ValueError, match=r"\Alr: expected a finite number >= 0, got [^\n]*\Z"):
        number("lr", WRAPS[wrap](value))


def test_exact_numbers_and_large_ones():
    assert number("lr", Fraction(1, 3)) == 1 / 3 and count("seed", np.uint64(2**64 - 1)) == 2**64 - 1
    with pytest.raises(ValueError, match="lr: "):
        number("lr", 10**400)


def test_a_rate_does_not_follow_the_array_that_it_was_in():
    rate, w = np.array(0.5), np.zeros(2)
    optimizer = gdgpu.SGD(w, lr=rate)
    rate[...] = 7
    optimizer.step(np.ones(2))
    assert type(optimizer.lr) is float and (w == -0.5).all()
