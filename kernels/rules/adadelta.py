"""Adadelta: steps in the units of the parameters, from two running means of squares."""

from ..backend.scalars import fma, sqrt
from .rule import Rule


def adadelta(w, g, square_avg, acc_delta, lr, rho, rest, eps, weight_decay, maximize):
    if maximize:
        g = -g
    if weight_decay != 0:
        g = fma(weight_decay, w, g)
    square_avg = fma(rho, square_avg, rest * g * g)
    delta = sqrt(acc_delta + eps) / sqrt(square_avg + eps) * g
    return fma(-lr, delta, w), square_avg, fma(rho, acc_delta, rest * delta * delta)


ROWS = (
    Rule(
        adadelta,
        state=("square_avg", "acc_delta"),
        squares=("square_avg", "acc_delta"),
        flags=("maximize",),
        reference="Zeiler 2012, https://arxiv.org/abs/1212.5701; "
        "https://docs.pytorch.org/docs/stable/generated/torch.optim.Adadelta.html",
    ),
)
