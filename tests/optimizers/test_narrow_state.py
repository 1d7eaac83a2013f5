"""Steps with narrow state beside those with float32 state, over the same gradients: none is far longer, few are short.

In 8 bits the elements of a block share a scale: one of each is large here, and the others are smaller by a ratio.
"""

import numpy as np
import pytest

import gdgpu
from gdgpu.kernels.rules.table import RULES
from support import user_rules
from support.checks import refused
from support.covering import usual
from support.optimizers import OPTIMIZERS, make, rule_of
from support.quantised import BLOCK

RATIOS = 10.0 ** -np.arange(9)
EACH = 2 * BLOCK  # elements of a ratio
STEPS = 150
ROUNDINGS = ("nearest", "stochastic")
HISTORIES = ("constant", "noisy", "spike", "wandering")


@gdgpu.rule(state=("mean", "largest"), nonnegative=("largest",))
def by_largest(w, g, mean, largest, lr):
    mean = gdgpu.fma(0.9, mean, 0.1 * g)
    largest = gdgpu.maximum(0.99 * largest, gdgpu.maximum(g, -g))
    return w - lr * mean / largest, mean, largest


USER_RULES = {rule.rule.name: rule for rule in (user_rules.heavy_ball, user_rules.debiased, by_largest)}
LABELS = [*(label for label in OPTIMIZERS if rule_of(label).state and not rule_of(label).early), *USER_RULES]
CASES = [(label, rounding) for label in LABELS for rounding in ROUNDINGS]
FEW = [(label, "stochastic") for label in ("Momentum", "Adam", "Adamax", "Adadelta", "by_largest")] + [
    ("Adam", "nearest")
]


def optimizer(label, w, **common):
    if label in USER_RULES:
        return USER_RULES[label](w, lr=1.0, **common)
    return make(label, w, lr=1.0, **common)


def histories():
    """name -> a gradient for each step; the ratio of each element, and which are the large ones."""
    rng = np.random.default_rng(0)
    ratio, is_large = np.repeat(RATIOS, EACH), np.arange(len(RATIOS) * EACH) % BLOCK == 0
    size, noise = np.where(is_large, 1, ratio), 0.5 + rng.standard_normal((STEPS, len(ratio)))
    steps = np.arange(STEPS)[:, None]
    found = {
        "constant": np.broadcast_to(size, noise.shape),
        "noisy": size * noise,
        "spike": np.where(is_large & (steps == STEPS // 2), 1, ratio) * noise,
        "wandering": ratio * noise * 10.0 ** (4 * np.sin(steps / 20 + rng.uniform(0, 6, len(ratio)))),
    }
    return {name: np.ascontiguousarray(g, np.float32) for name, g in found.items()}, ratio, is_large


def steps_of(label, gradients, **common):
    """What each step makes of weights of 0."""
    w = np.empty(gradients.shape[1], np.float32)
    run = optimizer(label, w, **common)
    for g in gradients:
        w[...] = 0
        run.step(g)
        yield w.astype(np.float64)


@pytest.mark.parametrize(("label", "rounding"), usual(CASES, FEW))
def test_no_step_is_far_longer_than_with_float32_state(label, rounding):
    """Than 4 times the longest in its block so far, or, down to a hundredth of its gradients, the element's own."""
    given, ratio, is_large = histories()
    for name in HISTORIES:
        longest, moved = np.zeros(len(ratio)), np.zeros((2, len(ratio)))
        narrow = steps_of(label, given[name], state_dtype="uint8", rounding=rounding, seed=1)
        for step, pair in enumerate(zip(narrow, steps_of(label, given[name]), strict=True)):
            longest, moved = np.maximum(longest, np.abs(pair[1])), moved + pair
            in_block = np.repeat(longest.reshape(-1, BLOCK).max(axis=1), BLOCK)
            limit = 4 * np.where((ratio >= 0.01) & (name != "wandering"), longest, in_block)
            too_long = np.abs(pair[0]) > limit
            assert not too_long.any(), f"{name}, step {step}, ratios {set(ratio[too_long])}"
        if name in ("constant", "noisy"):
            for r, least in ((1, 0.7), (0.1, 0.7), (0.01, 0.7), (0.001, 0.35)):
                narrow_way, way = moved[:, (ratio == r) & ~is_large].mean(axis=1)
                assert least < narrow_way / way < 2.2, f"{name}, ratio {r}"


@pytest.mark.parametrize(
    ("state_dtype", "rounding", "noise", "least"),
    [
        ("float32", "nearest", 0.3, 0.99),
        ("float32", "nearest", 1e-4, 0.99),
        ("bfloat16", "stochastic", 0.3, 0.95),
        ("bfloat16", "stochastic", 0.01, 0.85),
        ("uint8", "stochastic", 0.3, 0.9),
        ("uint8", "stochastic", 0.01, 0.75),
    ],
)
def test_the_variance_of_gradients_far_from_zero(state_dtype, rounding, noise, least):
    """Against float64, in two passes over all gradients: a difference of moments would be noise, or less than 0."""
    n, alpha, rng = 1024, 0.95, np.random.default_rng(0)
    w, given = np.zeros(n, np.float32), np.zeros((0, n))
    run = gdgpu.RMSprop(w, lr=1.0, alpha=alpha, centered=True, state_dtype=state_dtype, rounding=rounding)
    for step in range(300):
        w[...] = 0
        g = np.float32(1 + noise * rng.standard_normal(n))
        run.step(g)
        given = np.concatenate([given, g[None]])
        if step >= 150 and step % 10 == 0:
            weights = (1 - alpha) * alpha ** np.arange(step + 1)[::-1, None]
            mean = (weights * given).sum(axis=0)
            left = 1 - weights.sum()  # the gradients before the first are 0
            variance = (weights * (given - mean) ** 2).sum(axis=0) + left * mean**2
            ratio = np.abs(w) * (np.sqrt(variance) + 1e-8) / np.abs(g)
            assert least < np.median(ratio) < 1.01 and ratio.max() < 1.5


@pytest.mark.parametrize("same", (1.0, 0.1, -3e-7, 12345.678))
def test_gradients_that_are_all_the_same_have_no_variance_below_zero(same):
    w = np.zeros(300, np.float32)
    run = gdgpu.RMSprop(w, lr=1e-3, alpha=0.5, centered=True, eps=1e-3)
    for _ in range(400):
        run.step(np.full(300, same, np.float32))
        assert (run.state_dict()["state"]["variance"] >= 0).all() and np.isfinite(w).all()


def test_torchs_difference_of_moments_below_zero_is_taken_as_zero(torch):
    run = gdgpu.RMSprop(np.zeros(3), centered=True)
    run.step(np.ones(3))
    saved = run.state_dict(torch=True)
    saved["state"][0]["square_avg"] = saved["state"][0]["grad_avg"] ** 2 * (1 - 1e-7)
    run.load_state_dict(saved)
    assert (run.state_dict()["state"]["variance"] == 0).all()


def test_every_divisor_of_the_table_is_one_that_is_not_rounded_to_zero():
    for rule in RULES.values():
        assert {*rule.divisors} <= {*rule.nonnegative} and {*rule.squares} <= {*rule.nonnegative}
    assert RULES["adam_amsgrad"].divisors == ("exp_avg_sq", "max_exp_avg_sq")
    assert RULES["adadelta"].divisors == ("square_avg",)


@gdgpu.rule(state=("m", "v"))
def undeclared(w, g, m, v, lr):
    m, v = m + g, v + g * g
    root = gdgpu.sqrt(v)
    root += 1e-8
    return w - lr * m / root, m, v


@gdgpu.rule(state=("m", "v"), squares=("v",))
def of_a_difference(w, g, m, v, lr):
    m, v = m + g, v + g * g
    spread = v - m * m
    return w - lr * g / gdgpu.sqrt(spread), m, v


@gdgpu.rule(state=("m", "v"), nonnegative=("v",))
def declared(w, g, m, v, lr):
    v = v + g * g
    m += g / v
    return w - lr * m, m, v


@pytest.mark.parametrize(("rule", "state"), [(undeclared, "v"), (of_a_difference, "m")])
def test_a_divisor_that_may_be_rounded_to_zero_is_refused(rule, state):
    for state_dtype in (None, "float32", "bfloat16"):
        rule(np.zeros(3, np.float32), lr=0.1, state_dtype=state_dtype)
    with refused("state_dtype", ValueError) as error:
        rule(np.zeros(3, np.float32), lr=0.1, state_dtype="uint8")
    assert f"may round {state} to 0" in str(error.value)
    declared(np.zeros(3, np.float32), lr=0.1, state_dtype="uint8")


def test_names_of_squares_are_those_of_states():
    with pytest.raises(TypeError, match=r"squares: expected names of states, got u$"):
        gdgpu.rule(state=("v",), squares=("u",))(by_largest_of_v)
    with pytest.raises(TypeError, match=r"^squares: expected a tuple of names"):
        gdgpu.rule(state=("v",), squares="v")(by_largest_of_v)


def by_largest_of_v(w, g, v, lr):
    v = gdgpu.maximum(v, g)
    return w - lr * g / v, v
