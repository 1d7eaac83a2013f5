"""Momentum, the heavy ball: m = momentum * m - lr * g; w = w + m."""

from ..backend.scalars import fma
from .rule import Rule


def heavy_ball(w, g, velocity, lr, momentum, weight_decay, nesterov, maximize):
    if maximize:
        g = -g
    if weight_decay != 0:
        g = fma(weight_decay, w, g)
    velocity = fma(momentum, velocity, -(lr * g))
    if nesterov:
        return w + fma(momentum, velocity, -(lr * g)), velocity
    return w + velocity, velocity


ROWS = (
    Rule(
        heavy_ball,
        name="momentum",
        state=("velocity",),
        flags=("nesterov", "maximize"),
        reference="Polyak 1964, doi:10.1016/0041-5553(64)90137-5; Nesterov as in Sutskever et al. 2013",
    ),
)
