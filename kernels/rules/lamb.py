"""LAMB: Adam's steps in proportion to the norm of their tensor, in two phases."""

from ..backend.scalars import fma, sqrt
from .rule import Rule


def lamb_direction(
    w, g, exp_avg, exp_avg_sq, correction, root, rest1, rest2, beta1, beta2, eps, weight_decay, maximize
):
    if maximize:
        g = -g
    exp_avg = fma(beta1, exp_avg, rest1 * g)
    exp_avg_sq = fma(beta2, exp_avg_sq, rest2 * g * g)
    step = fma(weight_decay, w, exp_avg * correction / (sqrt(exp_avg_sq) * root + eps))
    return step, exp_avg, exp_avg_sq


def lamb(w, g, exp_avg, exp_avg_sq, lr, correction, root, eps, weight_decay, w_norm, u_norm):
    ratio = 1.0
    if w_norm > 0 and u_norm > 0:
        ratio = w_norm / u_norm
    step = fma(weight_decay, w, exp_avg * correction / (sqrt(exp_avg_sq) * root + eps))
    return fma(-lr * ratio, step, w)


def lamb_step(power1, power2, beta1, beta2):
    power1, power2 = power1 * beta1, power2 * beta2
    return power1, power2, 1 / fma(-1, power1, 1), 1 / sqrt(fma(-1, power2, 1))


ROWS = (
    Rule(
        lamb,
        state=("exp_avg", "exp_avg_sq"),
        flags=("maximize",),
        squares=("exp_avg_sq",),
        norm=lamb_direction,
        early=("exp_avg", "exp_avg_sq"),
        step=lamb_step,
        given=("correction", "root"),
        carried={"power1": 1.0, "power2": 1.0},
        counted=("power1", "power2"),
        reference="You et al. 2020, https://arxiv.org/abs/1904.00962, algorithm 2",
    ),
)
