"""Lion: the sign of a momentum."""

from typing import Unpack

from ..core.checks import flag, number
from ..typing import Params, Rate
from .base import Optimizer
from .hyperparameters import Hyperparameter, betas_of
from .precision import Common


class Lion(Optimizer):
    """Lion: every weight moves by lr, in the direction of the sign of a mean of gradients.

    u = sign(beta1 * m + (1 - beta1) * g); w = (1 - lr * weight_decay) * w - lr * u; m = beta2 * m + (1 - beta2) * g.
    maximize: g = -g first.

    lr >= 0, betas two numbers in [0, 1), weight_decay >= 0. Raises ValueError or TypeError naming the argument.
    Source: Chen et al. 2023, https://arxiv.org/abs/2302.06675, algorithm 2.
    """

    __slots__ = ()

    betas = Hyperparameter[tuple[float, float]]()
    weight_decay = Hyperparameter[float]()
    maximize = Hyperparameter[bool]()

    def __init__(
        self,
        params: Params,
        lr: Rate = 0.0001,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0,
        maximize: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, lr, {"betas": betas, "weight_decay": weight_decay, "maximize": maximize}, **common)

    @classmethod
    def _rule(cls, betas, weight_decay, maximize):
        hyper = betas_of(betas) | {"weight_decay": number("weight_decay", weight_decay)}
        return "lion", hyper, {"maximize": flag("maximize", maximize)}
