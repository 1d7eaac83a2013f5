"""Every update rule, once: (w, g, *state, *hyperparameters, *flags) -> (w, *state), all of them scalars.

Kernels for both devices are generated from these functions. A multiply-add is an explicit `fma`, a
literal is a constant of the array's precision, and a flag is fixed when the kernel is compiled.
"""

from .adaptive import ADAPTIVE
from .layerwise import LAYERWISE
from .rule import Rule
from .scalars import fma


def gradient_descent(w, g, lr, weight_decay, maximize):
    if maximize:
        g = -g
    if weight_decay != 0:
        g = fma(weight_decay, w, g)
    return fma(-lr, g, w)


def heavy_ball(w, g, velocity, lr, momentum, weight_decay, nesterov, maximize):
    if maximize:
        g = -g
    if weight_decay != 0:
        g = fma(weight_decay, w, g)
    velocity = fma(momentum, velocity, -(lr * g))
    if nesterov:
        return w + fma(momentum, velocity, -(lr * g)), velocity
    return w + velocity, velocity


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


RULES = {
    rule.name: rule
    for rule in (
        Rule(gradient_descent, flags=("maximize",), reference="Cauchy 1847"),
        Rule(
            heavy_ball,
            state=("velocity",),
            flags=("nesterov", "maximize"),
            name="momentum",
            reference="Polyak 1964, doi:10.1016/0041-5553(64)90137-5; Nesterov as in Sutskever et al. 2013",
        ),
        *(
            Rule(
                sgd,
                state=("momentum_buffer",),
                flags=("nesterov", "maximize"),
                reference="torch.optim.SGD, https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html",
                **dampened,
            )
            for dampened in ({}, {"name": "sgd_dampened", "step": sgd_step, "given": ("rest",), "carried": {"t": 0.0}})
        ),
        *ADAPTIVE,
        *LAYERWISE,
    )
}
