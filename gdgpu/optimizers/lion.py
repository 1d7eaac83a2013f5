"""Lion: the sign of a momentum."""

from ..core.checks import flag, number
from .base import Optimizer
from .ranges import betas_of


class Lion(Optimizer):
    """Lion: every weight moves by lr, in the direction of the sign of a mean of gradients.

    u = sign(beta1 * m + (1 - beta1) * g); w = (1 - lr * weight_decay) * w - lr * u; m = beta2 * m + (1 - beta2) * g.
    maximize: g = -g first.

    lr >= 0, betas two numbers in [0, 1), weight_decay >= 0. Raises ValueError or TypeError naming the argument.
    Source: Chen et al. 2023, https://arxiv.org/abs/2302.06675, algorithm 2.
    """

    __slots__ = ()

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0, maximize=False, **common):
        super().__init__(params, lr, {"betas": betas, "weight_decay": weight_decay, "maximize": maximize}, **common)

    @staticmethod
    def _rule(betas, weight_decay, maximize):
        hyper = betas_of(betas) | {"weight_decay": number("weight_decay", weight_decay)}
        return "lion", hyper, {"maximize": flag("maximize", maximize)}
