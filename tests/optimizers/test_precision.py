"""Master weights, and state in bfloat16 and 8 bits: every optimizer's float32 steps, and what is stored of them."""

import numpy as np
import pytest

import gdgpu
from gdgpu.kernels.codegen.element import Element
from gdgpu.kernels.rules.table import RULES
from support.arrays import arrays, copies
from support.bits import unaligned
from support.checks import refused
from support.covering import usual
from support.optimizers import OPTIMIZERS, make, rule_of, snapshot
from support.quantised import rounded
from support.references import assert_same_bits, dtype_of
from support.skeletons import one_of_each, quantized_skeleton, skeleton

SHAPES = ((300,), (7, 9), (), (0,))
SIZES = ((1,), (255,), (256,), (257,), (5, 0), (65_536 + 3,))
STATES = ("float32", "bfloat16", "uint8")
QUANTIZED = [label for label in OPTIMIZERS if not rule_of(label).early]  # 8 bits are not for states of two phases
STORED = [(label, d) for d in STATES[1:] for label in (QUANTIZED if d == "uint8" else OPTIMIZERS)]
# Every skeleton: what rounds a state, and whether it is negative, depends on the states alone.
FEW = one_of_each(skeleton)
FEW_STORED = [(label, "bfloat16") for label in FEW] + [
    (label, "uint8") for label in one_of_each(quantized_skeleton, QUANTIZED)
]
MASTERS = [(label, "bfloat16") for label in OPTIMIZERS] + [("Momentum", "float16"), ("Adam", "float16")]
FEW_MASTERS = [(label, dtype) for label, dtype in MASTERS if label in FEW and (label, dtype) != ("Adam", "bfloat16")]


def states(optimizer):
    """name -> arrays, one a tensor."""
    return optimizer.state_dict()["state"]


def placed(shapes, seed):
    """float32 arrays of these shapes, the last two of them unaligned."""
    some = arrays(shapes, ["float32"] * len(shapes), seed)
    return [*some[:-2], *map(unaligned, some[-2:])]


# Master weights


@pytest.mark.parametrize(("label", "dtype"), usual(MASTERS, FEW_MASTERS))
def test_masters_are_float32_weights_and_params_their_image(label, dtype):
    params = arrays(SHAPES, [dtype] * len(SHAPES), 1)
    wide = [w.astype(np.float32) for w in params]
    one, other = make(label, params, master=True), make(label, wide)
    for step in range(5):
        grads = arrays(SHAPES, ["float32"] * len(SHAPES), 10 * step)
        one.step(grads)
        other.step(grads)
        saved = states(one)
        for w, master, expected in zip(params, saved.pop("master"), wide, strict=True):
            assert_same_bits(master, expected)
            assert_same_bits(w, expected.astype(dtype_of(dtype)))
        for name, values in states(other).items():
            for actual, expected in zip(saved.pop(name), values, strict=True):
                assert_same_bits(actual, expected)
        assert not saved


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("label", OPTIMIZERS)
def test_masters_of_wide_params_are_refused(label, dtype):
    params = arrays(((3,), (2, 2)), ["bfloat16", dtype], 1)
    before = copies(params)
    with refused("master", ValueError) as error:
        make(label, params, master=True)
    assert f"params[1] is {dtype}" in str(error.value)
    for w, old in zip(params, before, strict=True):
        assert_same_bits(w, old)


# State


@pytest.mark.parametrize(("label", "state_dtype"), usual(STORED, FEW_STORED))
def test_each_step_is_float32s_with_its_new_state_rounded(label, state_dtype):
    params = placed(SIZES, 1)
    expected = placed(SIZES, 1)
    one, other = make(label, params, state_dtype=state_dtype), make(label, expected)
    rule = one._engine.parts[0].rule
    for step in range(4):
        other.load_state_dict(one.state_dict())
        grads, old = placed(SIZES, 10 * step), copies(params)
        one.step(grads)
        other.step(grads)
        for name, values in states(other).items():
            kind = rule.code(name) if state_dtype == "uint8" else state_dtype
            for actual, value in zip(states(one)[name], values, strict=True):
                assert_same_bits(actual, rounded(value, kind))
                assert (actual >= 0).all() or name not in rule.nonnegative
        for w, wanted, before in zip(params, expected, old, strict=True):
            if rule.early:  # its second phase reads what the first has stored, each state within 2^-8
                np.testing.assert_allclose(w - before, wanted - before, rtol=2.0**-7, atol=1e-6)
                wanted[...] = w
            else:
                assert_same_bits(w, wanted)


GOING_ON = [(*stored, rounding) for stored in STORED for rounding in ("nearest", "stochastic")]
FEW_GOING_ON = [(*stored, ("nearest", "stochastic")[k % 2]) for k, stored in enumerate(FEW_STORED)]


@pytest.mark.parametrize(("label", "state_dtype", "rounding"), usual(GOING_ON, FEW_GOING_ON))
def test_state_goes_on_where_it_was(label, state_dtype, rounding):
    common = {"state_dtype": state_dtype, "rounding": rounding, "seed": 9}
    params = placed(SIZES[:-1], 1)
    one = make(label, params, **common)
    for step in range(3):
        one.step(placed(SIZES[:-1], 10 * step))
    other = make(label, copies(params), **common)
    saved = one.state_dict()
    other.load_state_dict(saved)
    for name, values in states(other).items():
        for actual, expected in zip(values, saved["state"][name], strict=True):
            assert_same_bits(actual, expected)
    for step in range(5):
        grads = placed(SIZES[:-1], 100 * step)
        one.step(grads)
        other.step(grads)
        assert snapshot(one) == snapshot(other)


@pytest.mark.parametrize(("before", "after"), [(a, b) for a in STATES for b in STATES if a != b])
def test_state_moves_to_another_dtype(before, after):
    params = placed(SIZES, 1)
    one = gdgpu.Adam(params, state_dtype=before)
    one.step(placed(SIZES, 2))
    other = gdgpu.Adam(copies(params), state_dtype=after)
    other.load_state_dict(one.state_dict())
    for name, code in (("exp_avg", "signed8"), ("exp_avg_sq", "unsigned8")):
        for actual, value in zip(states(other)[name], states(one)[name], strict=True):
            assert_same_bits(actual, rounded(value, code if after == "uint8" else after))


@pytest.mark.parametrize(("label", "state_dtype"), [*STORED, *((label, "float32") for label in OPTIMIZERS)])
def test_state_of_float64_params_stays_wide(label, state_dtype):
    params = arrays(((3,), (2, 2)), ["float32", "float64"], 1)
    before = copies(params)
    with refused("state_dtype", ValueError) as error:
        make(label, params, state_dtype=state_dtype)
    assert "params[1] is float64" in str(error.value)
    for w, old in zip(params, before, strict=True):
        assert_same_bits(w, old)


@pytest.mark.parametrize(("label", "state_dtype"), STORED)
def test_bytes_of_state(label, state_dtype):
    n = 256 * 40
    optimizer = make(label, arrays(((n,),), ["float32"], 1), state_dtype=state_dtype)
    each = {"bfloat16": 2, "uint8": 1 + 4 / 256}[state_dtype]
    assert [state.array.nbytes for state in optimizer._engine.state[0]] == [n * each] * len(
        optimizer._engine.parts[0].rule.state
    )


@pytest.mark.parametrize(
    ("dtypes", "nbytes"),
    [(("float32",) * 3, 20), (("float32", "bfloat16", "signed8"), 12), (("bfloat16", "bfloat16", "bfloat16"), 10)],
)
def test_bytes_that_a_step_of_momentum_moves(dtypes, nbytes):
    assert Element(RULES["momentum"], dtypes, {}).element_bytes == nbytes


BAD = {"state_dtype": ("float16", "int8", 8), "rounding": ("up", True), "seed": (-1, 0.5), "master": (1, "float32")}


@pytest.mark.parametrize(("keyword", "value"), [(keyword, value) for keyword, some in BAD.items() for value in some])
def test_bad_keywords_are_named(keyword, value):
    with refused(keyword):
        gdgpu.Adam(np.ones(3, np.float16), **{keyword: value})


@pytest.mark.parametrize("dtype", ("float16", "bfloat16", "float32"))
def test_state_in_float32_is_what_there_is_without_the_keyword(dtype):
    params, grads = (arrays(SHAPES, [dtype] * len(SHAPES), seed) for seed in (1, 2))
    one, other = gdgpu.Adam(params, state_dtype="float32"), gdgpu.Adam(copies(params))
    one.step(grads)
    other.step(grads)
    assert snapshot(one) == snapshot(other)
