"""Adamax: Adam with the largest gradient, decayed, in the place of the root."""

from ..backend.scalars import fma, maximum
from .rule import Rule


def adamax(w, g, exp_avg, exp_inf, step_size, rest1, beta1, beta2, eps, weight_decay, maximize):
    if maximize:
        g = -g
    if weight_decay != 0:
        g = fma(weight_decay, w, g)
    exp_avg = fma(beta1, exp_avg, rest1 * g)
    exp_inf = maximum(beta2 * exp_inf, maximum(g, -g) + eps)
    return fma(-step_size, exp_avg / exp_inf, w), exp_avg, exp_inf


def adamax_step(power1, lr, beta1):
    power1 = power1 * beta1
    return power1, lr / fma(-1, power1, 1)


ROWS = (
    Rule(
        adamax,
        state=("exp_avg", "exp_inf"),
        nonnegative=("exp_inf",),
        flags=("maximize",),
        step=adamax_step,
        given=("step_size",),
        carried={"power1": 1.0},
        counted=("power1",),
        reference="Kingma and Ba 2015, section 7.1; https://docs.pytorch.org/docs/stable/generated/torch.optim.Adamax.html",
    ),
)
