"""Gradient descent, and SGD as torch has it."""

from ..backend.scalars import fma
from .rule import Rule


def gradient_descent(w, g, lr, weight_decay, maximize):
    if maximize:
        g = -g
    if weight_decay != 0:
        g = fma(weight_decay, w, g)
    return fma(-lr, g, w)


def sgd(w, g, momentum_buffer, lr, momentum, rest, weight_decay, nesterov, maximize):
    if maximize:
        g = -g
    if weight_decay != 0:
        g = fma(weight_decay, w, g)
    momentum_buffer = fma(momentum, momentum_buffer, rest * g)
    if nesterov:
        return fma(-lr, fma(momentum, momentum_buffer, g), w), momentum_buffer
    return fma(-lr, momentum_buffer, w), momentum_buffer


def sgd_step(t, dampening):
    rest = 1.0
    if t > 0:  # the first gradient enters the buffer whole
        rest = 1 - dampening
    return t + 1, rest


_TORCH = "torch.optim.SGD, https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html"

ROWS = (
    Rule(gradient_descent, flags=("maximize",), reference="Cauchy 1847"),
    Rule(sgd, state=("momentum_buffer",), flags=("nesterov", "maximize"), reference=_TORCH),
    Rule(
        sgd,
        name="sgd_dampened",
        state=("momentum_buffer",),
        flags=("nesterov", "maximize"),
        step=sgd_step,
        given=("rest",),
        carried={"t": 0.0},
        counted=("t",),
        reference=_TORCH,
    ),
)
