"""Adagrad: steps divided by the root of the sum of all squares so far."""

from ..backend.scalars import fma, sqrt
from .rule import Rule


def adagrad(w, g, sum, lr, eps, weight_decay, maximize):
    if maximize:
        g = -g
    if weight_decay != 0:
        g = fma(weight_decay, w, g)
    sum = fma(g, g, sum)
    return fma(-lr, g / (sqrt(sum) + eps), w), sum


def adagrad_step(t, lr, lr_decay):
    return t + 1, lr / fma(t, lr_decay, 1)


_REFERENCE = (
    "Duchi, Hazan and Singer 2011, https://jmlr.org/papers/v12/duchi11a.html; "
    "https://docs.pytorch.org/docs/stable/generated/torch.optim.Adagrad.html"
)

ROWS = (
    Rule(adagrad, state=("sum",), squares=("sum",), flags=("maximize",), reference=_REFERENCE),
    Rule(
        adagrad,
        name="adagrad_decayed",
        state=("sum",),
        squares=("sum",),
        flags=("maximize",),
        step=adagrad_step,
        given=("lr",),
        carried={"t": 0.0},
        counted=("t",),
        reference=_REFERENCE,
    ),
)
