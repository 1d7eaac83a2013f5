"""LARS: steps in proportion to the norm of their tensor. Two phases, the norms are taken in between."""

from ..backend.scalars import fma
from .rule import Rule


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


ROWS = (
    Rule(
        lars,
        state=("momentum_buffer",),
        flags=("nesterov", "maximize"),
        norm=lars_direction,
        reference="You, Gitman and Ginsburg 2017, https://arxiv.org/abs/1708.03888, algorithm 1",
    ),
)
