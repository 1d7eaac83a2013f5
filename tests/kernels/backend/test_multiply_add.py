"""The multiply-adds of the rules are rounded once: what a step leaves, to the bit of an exact fma."""

import numpy as np
import pytest

import gdgpu
from support.references import assert_same_bits, fma, samples

LR, MOMENTUM, DECAY, BETA1, BETA2 = 0.3, 0.9, 0.01, 0.8, 0.99


def rest(beta):
    return np.float32(1 - beta)


def velocity(w, g, before):
    return fma(np.float32(MOMENTUM), before["velocity"], -(np.float32(LR) * g))


def weights(w, g, before):
    return fma(-np.float32(LR), g, w)


def decayed_weights(w, g, before):
    return weights(w, fma(np.float32(DECAY), w, g), before)


def buffer(w, g, before):
    return fma(np.float32(MOMENTUM), before["momentum_buffer"], g)


def sum_of_squares(w, g, before):
    return fma(g, g, before["sum"])


def mean_of_squares(name):
    return lambda w, g, before: fma(np.float32(BETA2), before[name], rest(BETA2) * g * g)


def mean(beta):
    return lambda w, g, before: fma(np.float32(beta), before["exp_avg"], rest(beta) * g)


BETAS = {"betas": (BETA1, BETA2)}
# optimizer, its arguments, what is looked at ("" for the weights), and what that is from w, g and the states before
ROWS = [
    ("SGD", {}, "", weights),
    ("SGD", {"weight_decay": DECAY}, "", decayed_weights),
    ("SGD", {"momentum": MOMENTUM}, "momentum_buffer", buffer),
    ("Momentum", {"momentum": MOMENTUM}, "velocity", velocity),
    ("Momentum", {"momentum": MOMENTUM, "nesterov": True}, "velocity", velocity),
    ("Adagrad", {}, "sum", sum_of_squares),
    ("RMSprop", {"alpha": BETA2}, "square_avg", mean_of_squares("square_avg")),
    ("Adadelta", {"rho": BETA2}, "square_avg", mean_of_squares("square_avg")),
    ("Adam", BETAS, "exp_avg", mean(BETA1)),
    ("Adam", BETAS, "exp_avg_sq", mean_of_squares("exp_avg_sq")),
    ("Lion", BETAS, "exp_avg", mean(BETA2)),
]


@pytest.mark.parametrize(("name", "hyper", "state", "expected"), ROWS)
def test_a_step_rounds_once(name, hyper, state, expected):
    w, first, g = (samples((2000,), "float32", seed, wide=False) for seed in range(3))
    optimizer = getattr(gdgpu, name)(w, lr=LR, **hyper)
    optimizer.step(first)
    before, start = {k: array.copy() for k, array in optimizer.state_dict()["state"].items()}, w.copy()
    optimizer.step(g)
    found = optimizer.state_dict()["state"][state] if state else w
    assert_same_bits(found, expected(start, g, before))
