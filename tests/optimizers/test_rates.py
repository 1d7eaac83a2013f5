"""Gradient descent, heavy ball and Nesterov contract as theory says; momentum is its closed form, to the rounding."""

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

import gdgpu
from support.covering import cover
from support.references import DTYPES, dtype_of, samples, sums_of

KAPPAS = (10, 100, 1000)
MODES = 7
FALL = 150  # the weights shrink by e^-150 while they are watched


def descent(k):
    """(lr, momentum, rate of contraction) on a quadratic with curvatures from 1 to k."""
    return 2 / (k + 1), 0.0, (k - 1) / (k + 1)


def polyak(k):
    root = math.sqrt(k)
    rate = (root - 1) / (root + 1)
    return 4 / (root + 1) ** 2, rate**2, rate


def nesterov(k):
    root = math.sqrt(k)
    return 1 / k, (root - 1) / (root + 1), 1 - 1 / root


METHODS = (descent, polyak, nesterov)
FORMS = (gdgpu.Momentum, gdgpu.SGD)


def stepper(form, method, k):
    """A function of (w, g) that binds an optimizer of this form to them, with the method's parameters."""
    lr, momentum, _ = method(k)
    return lambda w, g: form(w, lr, momentum=momentum, nesterov=method is nesterov).bind(g)


def iterates(bind, h, steps):
    """The weights of every step on f(w) = 1/2 sum_i h_i w_i^2, from ones."""
    w, g = np.ones(len(h)), np.empty(len(h))
    run, seen = bind(w, g), [w.copy()]
    for _ in range(steps):
        np.multiply(h, w, out=g)
        run()
        seen.append(w.copy())
    return np.array(seen)


def observed(bind, k, rate):
    """log of the contraction a step, over the second half of as many steps as theory needs to shrink by e^-FALL.

    The modes do not mix, so there is no rounding floor. Polyak's and Nesterov's slowest modes have a double root, whose
    w_t = (a + b t) rate^t is left in: over a half it adds at most log 2, which is 2 log 2 / FALL = 0.9 % of the fall.
    """
    half = math.ceil(FALL / 2 / -math.log(rate))
    sizes = np.abs(iterates(bind, np.geomspace(1, k, MODES), 2 * half)).max(axis=1)
    return math.log(sizes[-1] / sizes[half]) / half


def companions(bind, h):
    """The companion matrix of each mode's recurrence w_{t+1} = p w_t - q w_{t-1}, as its first steps show it."""
    found = []
    for w in iterates(bind, h, 8).T:
        coefficients, *_ = np.linalg.lstsq(np.stack([w[1:-1], w[:-2]], axis=1), w[2:], rcond=None)
        found.append([coefficients, [1, 0]])
    return np.array(found)


def companions_in_theory(method, k, h):
    """Heavy ball: p = 1 + momentum - lr h, q = momentum. Nesterov: 1 + momentum and momentum, both times 1 - lr h."""
    lr, momentum, _ = method(k)
    stay = 1 - lr * h
    p, q = (stay * (1 + momentum), stay * momentum) if method is nesterov else (stay + momentum, momentum)
    return np.array([[[p, -q], [1, 0]] for p, q in np.broadcast(p, q)])


def spectral_radius(matrices):
    return np.abs(np.linalg.eigvals(matrices)).max()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("k", KAPPAS)
def test_contraction_is_as_fast_as_theory_says(k, method, form):
    """Within 2 % in log rate, the number of steps for a given accuracy, which implies 2 % in 1 - rate."""
    rate = method(k)[-1]
    assert observed(stepper(form, method, k), k, rate) == pytest.approx(math.log(rate), rel=0.02)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("k", KAPPAS)
def test_every_mode_follows_its_companion_matrix(k, method, form):
    """And the largest of the eigenvalues is the rate; a double root moves by the root of an error of its matrix."""
    h = np.geomspace(1, k, MODES)
    matrices = companions(stepper(form, method, k), h)
    if method is not descent:  # of one root, whose second is not seen
        np.testing.assert_allclose(matrices, companions_in_theory(method, k, h), rtol=0, atol=1e-10)
    assert spectral_radius(matrices) == pytest.approx(method(k)[-1], abs=1e-5)


def dampened(g, v, lr, momentum):
    v = momentum * v - (1 - momentum) * lr * g
    return v, v


def late(g, v, lr, momentum):
    return v, momentum * v - lr * g


def plain(g, v, lr, momentum):
    v = momentum * v - lr * g
    return v, v


def ahead(g, v, lr, momentum):
    v = momentum * v - lr * g
    return momentum * v - lr * g, v


def mistaken(method, k, move):
    """Like `stepper`, with a formula (g, v, lr, momentum) -> (move of w, v) that is not the method's."""
    lr, momentum, _ = method(k)

    def bind(w, g):
        v = np.zeros(len(w))

        def run():
            change, new = move(g, v, lr, momentum)
            w[:] += change
            v[:] = new

        return run

    return bind


MISTAKES = [
    (polyak, dampened),
    (polyak, late),
    (polyak, ahead),
    (nesterov, dampened),
    (nesterov, late),
    (nesterov, plain),
]


@pytest.mark.parametrize(("method", "move"), MISTAKES)
def test_a_mistaken_formula_would_be_seen(method, move):
    """By its companion matrices always; by its rate where momentum is far from 1."""
    for k in KAPPAS:
        h = np.geomspace(1, k, MODES)
        error = companions(mistaken(method, k, move), h) - companions_in_theory(method, k, h)
        assert np.abs(error).max() > 0.1
    rate = method(10)[-1]
    assert observed(mistaken(method, 10, move), 10, rate) != pytest.approx(math.log(rate), rel=0.1)


STEPS = 50
RATES = {"constant": lambda steps: 0.05, "changing": lambda steps: 0.1 / (1 + steps % 7)}


def closed_form(form, ahead, momentum, rates):
    """What multiplies each gradient in the last velocity or buffer, and in the sum of all the moves; exact.

    Momentum keeps each gradient with the lr of its own step; SGD keeps it bare, and moves by today's lr.
    """
    buffer_rates, step_rates = (
        ([-lr for lr in rates], [1] * STEPS) if form is gdgpu.Momentum else ([1] * STEPS, [-lr for lr in rates])
    )
    remaining = [buffer_rates[j] * momentum ** (STEPS - 1 - j) for j in range(STEPS)]
    moved = [
        buffer_rates[j]
        * (sum(step_rates[t] * momentum ** (t - j + ahead) for t in range(j, STEPS)) + ahead * step_rates[j])
        for j in range(STEPS)
    ]
    return remaining, moved


def summed(factors, gradients):
    """For each element the sum of factor * gradient, and of its magnitudes; exact."""
    terms = [[c * Fraction(float(g)) for c, g in zip(factors, column, strict=True)] for column in gradients.T]
    return [sum(t) for t in terms], [sum(map(abs, t)) for t in terms]


@cover(dtype=DTYPES, form=FORMS, ahead=(False, True), schedule=RATES)
def test_momentum_is_its_closed_form(dtype, form, ahead, schedule):
    """v_t = -sum_k momentum^k lr_{t-k} g_{t-k}, and w_t = w_0 + all moves, within the rounding of 50 steps.

    With unit roundoff u of the state, a gradient passes at most STEPS + 2 roundings on its way into a move: its product
    with lr, an fma a step, Nesterov's fma. A sum of terms that pass n roundings each is off by at most
    n u / (1 - n u) times the sum of their magnitudes. Then each step rounds w, in the state's precision and in its own:
    that is off by at most r / (1 - r) |w|, where r adds up both roundoffs, or by half of the smallest number.
    """
    sums, kind = sums_of(dtype).type, ml_dtypes.finfo(dtype_of(dtype))
    w, gradients = samples((20,), dtype, wide=False), samples((STEPS, 20), dtype, wide=False)
    start, rounded = w.astype(np.float64), np.zeros(20)
    optimizer = form(w, RATES[schedule], momentum=0.9, nesterov=ahead)
    unit = float(kind.eps + np.finfo(sums).eps) / 2
    for g in gradients:
        optimizer.step(g)
        rounded += unit / (1 - unit) * np.abs(w.astype(np.float64)) + float(kind.smallest_subnormal) / 2
    (state,) = optimizer.state_dict()["state"].values()
    assert state.dtype == sums

    rates = [Fraction(float(sums(RATES[schedule](t)))) for t in range(STEPS)]
    remaining, moved = closed_form(form, ahead, Fraction(float(sums(0.9))), rates)
    n = (STEPS + 2) * Fraction(float(np.finfo(sums).eps)) / 2
    for i, (value, size) in enumerate(zip(*summed(remaining, gradients), strict=True)):
        assert abs(Fraction(float(state[i])) - value) <= n / (1 - n) * size
    for i, (value, size) in enumerate(zip(*summed(moved, gradients), strict=True)):
        end = Fraction(float(start[i])) + value
        assert abs(Fraction(float(w[i])) - end) <= n / (1 - n) * size + Fraction(rounded[i])
