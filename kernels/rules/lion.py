"""Lion: the sign of a momentum."""

from ..backend.scalars import fma, sign
from .rule import Rule


def lion(w, g, exp_avg, lr, rest1, rest2, beta1, beta2, weight_decay, maximize):
    if maximize:
        g = -g
    step = sign(fma(beta1, exp_avg, rest1 * g))
    return fma(-lr, step, fma(-lr, weight_decay, 1) * w), fma(beta2, exp_avg, rest2 * g)


ROWS = (
    Rule(
        lion,
        state=("exp_avg",),
        flags=("maximize",),
        reference="Chen et al. 2023, https://arxiv.org/abs/2302.06675",
    ),
)
