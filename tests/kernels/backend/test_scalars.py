"""The scalar functions have one meaning in plain Python and in compiled code, the IEEE 754 one."""

from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import gdgpu
from support.references import assert_same_bits, nearest
from support.references import fma as fma_reference

KINDS = (np.float32, np.float64)
ARITY = {"fma": 3, "sqrt": 1, "maximum": 2, "minimum": 2, "sign": 1}
SPECIAL = (0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 5e-324, 3e38, -1e308, 0.1)
TIE_BREAKER = (1 + 2.0**-12, 1 + 2.0**-12, 2.0**-60)  # fma in float64, rounded to float32, gets this wrong


def arguments(name, kind):
    """Every combination of special values, then random ones; one array a parameter."""
    with np.errstate(over="ignore"):
        special = np.array(SPECIAL).astype(kind)
    grids = np.meshgrid(*[special] * ARITY[name], indexing="ij")
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((ARITY[name], 2000)) * np.exp2(rng.integers(-30, 30, (ARITY[name], 2000)))
    return [np.concatenate([g.ravel(), n.astype(kind)]) for g, n in zip(grids, noise, strict=True)]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ARITY)
def test_compiled_and_plain_agree(name, kind):
    from numba import njit

    function = getattr(gdgpu, name)
    call = {1: lambda a: function(a), 2: lambda a, b: function(a, b), 3: lambda a, b, c: function(a, b, c)}
    compiled = njit(error_model="numpy")(call[ARITY[name]])
    given_values = list(zip(*arguments(name, kind), strict=True))
    plain = np.array([function(*values) for values in given_values], kind)
    assert_same_bits(np.array([compiled(*values) for values in given_values]).astype(kind), plain)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ARITY)
def test_the_precision_is_the_arguments(name, kind):
    assert type(getattr(gdgpu, name)(*[kind(0.1)] * ARITY[name])) is kind
    if ARITY[name] > 1:  # a Python number takes the other argument's precision
        assert type(getattr(gdgpu, name)(kind(0.1), *[0.1] * (ARITY[name] - 1))) is kind


moderate = {
    kind: st.floats(-1e6, 1e6, width=np.finfo(kind).bits).filter(lambda x: x == 0 or abs(x) > 1e-6) for kind in KINDS
}


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@example(data=None)
def test_fma_rounds_once(kind, data):
    if data is None:
        a, b, c = map(kind, TIE_BREAKER)
    else:
        a, b = (kind(data.draw(moderate[kind])) for _ in range(2))
        near = kind(-float(a) * float(b)) * kind(
            1 + data.draw(st.integers(-3, 3)) * 2.0 ** data.draw(st.integers(-60, 0))
        )
        c = kind(data.draw(st.sampled_from([near, data.draw(moderate[kind]), 2.0**-60, -(2.0**-60)])))
    expected = nearest(Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)), kind)
    assert gdgpu.fma(a, b, c) == expected
    assert fma_reference(a, b, c) == expected


def test_fma_is_not_emulated_in_float64():
    a, b, c = map(np.float32, TIE_BREAKER)
    in_float64 = np.float32(np.float64(a) * np.float64(b) + np.float64(c))
    assert gdgpu.fma(a, b, c) == np.float32(1 + 2.0**-11 + 2.0**-23) != in_float64


@pytest.mark.parametrize("kind", KINDS)
def test_sqrt_is_the_nearest(kind):
    rng = np.random.default_rng(1)
    for a in (rng.random(200) * np.exp2(rng.integers(-30, 30, 200))).astype(kind):
        with localcontext(prec=60):
            root = Fraction(Decimal(float(a)).sqrt())
        assert gdgpu.sqrt(a) == nearest(root, kind)


NAN, INF = np.nan, np.inf
CASES = [
    ("fma", (INF, 0.0, 1.0), NAN),
    ("fma", (INF, 1.0, -INF), NAN),
    ("fma", (1.0, -1.0, 1.0), 0.0),
    ("fma", (-0.0, 1.0, -0.0), -0.0),
    ("fma", (1e-30, -1e-30, 0.0), {np.float32: -0.0, np.float64: -(1e-30 * 1e-30)}),
    ("sqrt", (-0.0,), -0.0),
    ("sqrt", (INF,), INF),
    ("maximum", (1.0, NAN), NAN),
    ("maximum", (NAN, 1.0), NAN),
    ("maximum", (0.0, -0.0), -0.0),
    ("maximum", (-0.0, 0.0), 0.0),
    ("maximum", (-INF, 2.0), 2.0),
    ("minimum", (1.0, NAN), NAN),
    ("minimum", (NAN, 1.0), NAN),
    ("minimum", (0.0, -0.0), -0.0),
    ("minimum", (-0.0, 0.0), 0.0),
    ("minimum", (-INF, 2.0), -INF),
    ("sign", (-0.0,), -0.0),
    ("sign", (0.0,), 0.0),
    ("sign", (NAN,), NAN),
    ("sign", (-INF,), -1.0),
    ("sign", (1e-45,), 1.0),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "given_values", "expected"), CASES)
def test_documented_values(name, given_values, expected, kind):
    expected = expected[kind] if isinstance(expected, dict) else expected
    actual = getattr(gdgpu, name)(*map(kind, given_values))
    assert_same_bits(actual, kind(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_sqrt_of_a_negative_number_is_nan(kind):
    with np.errstate(invalid="ignore"):
        assert np.isnan(gdgpu.sqrt(kind(-1)))


def test_first_use_inside_compiled_code(python):
    shown = python("import gdgpu, numba\nprint(numba.njit(lambda a: gdgpu.sqrt(a))(9.0))")
    assert shown == "3.0\n"
