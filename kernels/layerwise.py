"""The rules whose step is in proportion to the norm of its tensor: in two phases, with the norms taken in between."""

from .rule import Rule
from .scalars import fma, sqrt


def lars_direction(w, g, maximize):
    if maximize:
        g = -g
    return g


def lars(w, g, momentum_buffer, lr, momentum, weight_decay, trust_coefficient, eps, w_norm, u_norm, nesterov, maximize):
    if maximize:
        g = -g
    ratio = 1.0
    if w_norm > 0 and u_norm > 0:
        ratio = trust_coefficient * w_norm / (fma(weight_decay, w_norm, u_norm) + eps)
    step = lr * ratio * fma(weight_decay, w, g)
    momentum_buffer = fma(momentum, momentum_buffer, step)
    if nesterov:
        return w - fma(momentum, momentum_buffer, step), momentum_buffer
    return w - momentum_buffer, momentum_buffer


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


LAYERWISE = (
    Rule(
        lars,
        state=("momentum_buffer",),
        flags=("nesterov", "maximize"),
        norm=lars_direction,
        reference="You, Gitman and Ginsburg 2017, https://arxiv.org/abs/1708.03888, algorithm 1",
    ),
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
        reference="You et al. 2020, https://arxiv.org/abs/1904.00962, algorithm 2",
    ),
)
