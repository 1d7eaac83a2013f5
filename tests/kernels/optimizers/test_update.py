"""The update kernel of every rule: a plain Python loop over the rule, to the bit, whatever the sizes and addresses."""

from inspect import signature

import numpy as np
import pytest

from gdgpu.kernels.backend.buffers import Buffer, address_of
from gdgpu.kernels.codegen.language import NORMS
from gdgpu.kernels.optimizers import update
from gdgpu.kernels.rules import table
from support.bits import RULES, flags_of, special, unaligned
from support.covering import usual
from support.references import DTYPES, assert_same_bits, run_rule, sums_of

FLAGS = {rule: flags_of(RULES[rule]) for rule in RULES}
COMBINATIONS = [(rule, flags, dtype) for rule in RULES for flags in FLAGS[rule] for dtype in DTYPES]
# Every rule with every flag, in dtypes that take turns.
TURNS = [
    (rule, flags, DTYPES[(i + j) % len(DTYPES)]) for i, rule in enumerate(RULES) for j, flags in enumerate(FLAGS[rule])
]


def label(value):
    return "+".join(name for name, on in value if on) or "no flags" if isinstance(value, tuple) else value


def launch(kernel, tensors, hyper):
    """Update tensors, each a list [w, g, *state], with a row of hyperparameters each."""
    plan = update.plan("cpu", [t[0].size for t in tensors])
    rows = [(t[0].size, address_of(h), *map(address_of, t)) for t, h in zip(tensors, hyper, strict=True)]
    table, items = Buffer(np, np.array(rows, np.int64)), Buffer(np, plan.items)
    update.launcher("cpu", kernel, table, items, plan.chunk, nbytes=1 << 30)()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("rule", "flags", "dtype"), usual(COMBINATIONS, TURNS), ids=label)
def test_a_plain_loop_over_the_rule(rule, flags, dtype):
    rule, sums = RULES[rule], sums_of(dtype)
    dtypes = (dtype, dtype, *[sums.name] * len(rule.state))
    kernel = update.kernel("cpu", rule, flags, dtypes)
    rng = np.random.default_rng(1)
    tensors = [[special(n, d, 10 * n + j) for j, d in enumerate(dtypes)] for n in (300, 0, 7, 1)]
    tensors[2] = [unaligned(array) for array in tensors[2]]
    hyper = rng.uniform(0.1, 0.9, (len(tensors), len(rule.scalars) or 1))
    hyper[2] = 0
    expected = [[array.copy() for array in t] for t in tensors]
    for _ in range(3):
        launch(kernel, tensors, hyper.astype(sums))
        for (w, g, *state), row in zip(expected, hyper, strict=True):
            run_rule(rule, dict(flags), w, g, state, dict(zip(rule.scalars, row, strict=False)))
    for actual, wanted in zip(tensors, expected, strict=True):
        for a, b in zip(actual, wanted, strict=True):  # gradients among them: they are only read
            assert_same_bits(a, b)


@pytest.mark.parametrize("threads", (1, 2, 3, 5))
def test_every_element_is_updated_once(threads, use_threads):
    use_threads(threads)
    chunk = update.CPU_CHUNK
    sizes = [chunk - 1, chunk, chunk + 1, 0, 5 * chunk + 3, 1]
    kernel = update.kernel("cpu", RULES["gradient_descent"], (("maximize", False),), ("float64", "float64"))
    tensors = [[np.arange(n, dtype=np.float64), np.full(n, 3.0)] for n in sizes]
    launch(kernel, tensors, np.tile([1.0, 0.0], (len(sizes), 1)))  # lr, weight_decay
    for w, g in tensors:
        np.testing.assert_array_equal(w, np.arange(len(w)) - 3)
        assert (g == 3).all()


def test_neighbours_are_left_alone():
    buffer = np.full(40, 5, np.float32)
    kernel = update.kernel("cpu", RULES["gradient_descent"], (("maximize", False),), ("float32", "float32"))
    launch(kernel, [[buffer[3:30], np.ones(27, np.float32)]], np.array([[1, 0]], np.float32))
    np.testing.assert_array_equal(buffer, [5] * 3 + [4] * 27 + [5] * 10)


SIZES = ([0, 1, 1 << 14, (1 << 14) + 1, 0, 3 * (1 << 16) - 1, 2**31 + 5], [1024] * 100, [65536] * 100, [7], [])


@pytest.mark.parametrize("device", ("cpu", "cuda"))
@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"{len(sizes)} tensors")
def test_the_plan_covers_every_element_once(sizes, device):
    plan = update.plan(device, sizes)
    expected = [(k, first) for k, n in enumerate(sizes) for first in range(0, n, plan.chunk)]
    assert plan.items.dtype == np.int64 and plan.items.shape == (len(expected), 2)
    np.testing.assert_array_equal(plan.items, np.array(expected, np.int64).reshape(-1, 2))
    assert plan.chunk % 1024 == 0  # chunks begin where vectors do


@pytest.mark.parametrize("rule", table.RULES)
def test_the_table_names_the_rules_parameters(rule):
    row = table.RULES[rule]
    taken = {name for function in (row.function, row.norm) if function for name in signature(function).parameters}
    names = [*("w", "g"), *row.state, *row.scalars, *row.flags, *row.fixed, *row.absent, *(NORMS if row.norm else ())]
    assert sorted(names) == sorted(taken)
