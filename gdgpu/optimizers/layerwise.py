"""Optimizers whose step is in proportion to the norm of its tensor, for large batches."""

from typing import Unpack

from ..core.checks import flag, number
from ..typing import Params, Rate
from .base import Optimizer
from .hyperparameters import Hyperparameter, betas_of, positive
from .precision import Common


class LARS(Optimizer):
    """LARS: momentum, with a rate for each tensor in proportion to its norm over that of its gradient.

    r = trust_coefficient * |w| / (|g| + weight_decay * |w| + eps), 1 where |w| or |g| is 0;
    b = momentum * b + lr * r * (g + weight_decay * w); w -= b. nesterov: w -= momentum * b + lr * r * (g + …).
    maximize: g = -g first. A step is two launches: norms, update. Norms overflow in float32 beyond 1e19.

    lr, weight_decay, trust_coefficient, eps >= 0, 0 <= momentum < 1; nesterov needs momentum > 0. Raises ValueError or
    TypeError naming the argument.
    Source: You, Gitman and Ginsburg 2017, https://arxiv.org/abs/1708.03888, algorithm 1.
    """

    __slots__ = ()

    momentum = Hyperparameter[float]()
    weight_decay = Hyperparameter[float]()
    trust_coefficient = Hyperparameter[float]()
    eps = Hyperparameter[float]()
    nesterov = Hyperparameter[bool]()
    maximize = Hyperparameter[bool]()

    def __init__(
        self,
        params: Params,
        lr: Rate,
        momentum: float = 0.9,
        weight_decay: float = 0,
        trust_coefficient: float = 1e-3,
        eps: float = 0,
        nesterov: bool = False,
        maximize: bool = False,
        **common: Unpack[Common],
    ) -> None:
        hyper = {"momentum": momentum, "weight_decay": weight_decay, "trust_coefficient": trust_coefficient, "eps": eps}
        super().__init__(params, lr, hyper | {"nesterov": nesterov, "maximize": maximize}, **common)

    @classmethod
    def _rule(cls, momentum, weight_decay, trust_coefficient, eps, nesterov, maximize):
        hyper = positive(eps, weight_decay) | {
            "momentum": number("momentum", momentum, high=1, high_is_open=True),
            "trust_coefficient": number("trust_coefficient", trust_coefficient),
        }
        flags = {"nesterov": flag("nesterov", nesterov), "maximize": flag("maximize", maximize)}
        if nesterov and momentum == 0:
            raise ValueError("nesterov: needs momentum > 0, got 0")
        return "lars", hyper, flags


class LAMB(Optimizer):
    """LAMB: Adam's direction, with a rate for each tensor in proportion to its norm.

    m and v as Adam's; u = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay * w;
    w -= lr * |w| / |u| * u,
    and lr * u where |w| or |u| is 0. maximize: g = -g first. A step is the step scalars' launch and two more.

    lr >= 0, betas two numbers in [0, 1), eps >= 0, weight_decay >= 0. Raises ValueError or TypeError naming the
    argument. Source: You et al. 2020, https://arxiv.org/abs/1904.00962, algorithm 2 with phi(x) = x.
    """

    __slots__ = ()

    betas = Hyperparameter[tuple[float, float]]()
    eps = Hyperparameter[float]()
    weight_decay = Hyperparameter[float]()
    maximize = Hyperparameter[bool]()

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0,
        maximize: bool = False,
        **common: Unpack[Common],
    ) -> None:
        hyper = {"betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, lr, hyper, **common)

    @classmethod
    def _rule(cls, betas, eps, weight_decay, maximize):
        return "lamb", betas_of(betas) | positive(eps, weight_decay), {"maximize": flag("maximize", maximize)}
