"""Every update rule, once: (w, g, *state, *hyperparameters, *flags) -> (w, *state), all of them scalars.

Kernels for both devices are generated from these functions. A multiply-add is an explicit `fma`, a
literal is a constant of the array's precision, and a flag is fixed when the kernel is compiled.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from .scalars import fma, sqrt


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


def sgd(w, g, momentum_buffer, lr, momentum, dampening, weight_decay, nesterov, maximize):
    if maximize:
        g = -g
    if weight_decay != 0:
        g = fma(weight_decay, w, g)
    momentum_buffer = fma(momentum, momentum_buffer, (1 - dampening) * g)
    if nesterov:
        return fma(-lr, fma(momentum, momentum_buffer, g), w), momentum_buffer
    return fma(-lr, momentum_buffer, w), momentum_buffer


def adam(w, g, exp_avg, exp_avg_sq, step_size, root, rest1, rest2, beta1, beta2, eps, weight_decay, maximize):
    if maximize:
        g = -g
    if weight_decay != 0:
        g = fma(weight_decay, w, g)
    exp_avg = fma(beta1, exp_avg, rest1 * g)
    exp_avg_sq = fma(beta2, exp_avg_sq, rest2 * g * g)
    return fma(-step_size, exp_avg / (sqrt(exp_avg_sq) * root + eps), w), exp_avg, exp_avg_sq


def adam_step(power1, power2, lr, beta1, beta2):
    power1, power2 = power1 * beta1, power2 * beta2
    # fma: a product that is added to something must not be rounded on one device and not on another
    return power1, power2, lr / fma(-1, power1, 1), 1 / sqrt(fma(-1, power2, 1)), 1 - beta1, 1 - beta2


def _names(function):
    return tuple(inspect.signature(function).parameters) if function else ()


@dataclass(frozen=True, eq=False)
class Rule:
    """A row of the table: the function, which of its parameters are state or flags, and the source.

    Its other parameters are scalars. Without a `step` function they are the hyperparameters. With one, those named in
    `given` are what it returns, in float64, after the `carried` ones (name -> value before the first step), once a
    step: (*carried, *hyper) -> (*carried, *given).
    """

    function: Callable
    state: tuple = ()
    flags: tuple = ()
    reference: str = ""
    name: str = ""
    step: Callable | None = None
    given: tuple = ()
    carried: dict = field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "name", self.name or self.function.__name__)

    @cached_property
    def scalars(self):
        """Names of the scalars that the function takes."""
        return tuple(n for n in _names(self.function)[2:] if n not in self.state + self.flags)

    @cached_property
    def taken(self):
        """Names of what the step function takes."""
        return _names(self.step)

    @cached_property
    def hyper(self):
        """Names of the hyperparameters: scalars that the user gives, which may change from step to step."""
        names = (*self.taken, *self.scalars)
        return tuple(dict.fromkeys(n for n in names if n not in self.given and n not in self.carried))


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
        Rule(
            sgd,
            state=("momentum_buffer",),
            flags=("nesterov", "maximize"),
            reference="torch.optim.SGD, https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html",
        ),
        Rule(
            adam,
            state=("exp_avg", "exp_avg_sq"),
            flags=("maximize",),
            step=adam_step,
            given=("step_size", "root", "rest1", "rest2"),
            carried={"power1": 1.0, "power2": 1.0},
            reference="Kingma and Ba 2015, https://arxiv.org/abs/1412.6980, with eps where torch.optim.Adam has it",
        ),
    )
}
