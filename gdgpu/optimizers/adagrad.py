"""Adagrad and what came of it: RMSprop, Adadelta."""

from typing import Unpack

from ..core.checks import flag, number
from ..typing import Params, Rate
from .base import Optimizer
from .hyperparameters import Hyperparameter, positive
from .precision import Common


class Adagrad(Optimizer):
    """Adagrad: each weight's lr falls with the sum of its squared gradients.

    g += weight_decay * w; s += g^2; w -= lr / (1 + t * lr_decay) * g / (sqrt(s) + eps), t = 0, 1, …; s starts at
    initial_accumulator_value. maximize: g = -g first.

    lr, lr_decay, weight_decay, initial_accumulator_value, eps >= 0. Raises ValueError or TypeError naming the argument.
    Source: Duchi, Hazan and Singer 2011, https://jmlr.org/papers/v12/duchi11a.html, as in torch.optim.Adagrad.
    """

    __slots__ = ()

    lr_decay = Hyperparameter[float]()
    weight_decay = Hyperparameter[float]()
    initial_accumulator_value = Hyperparameter[float]()
    eps = Hyperparameter[float]()
    maximize = Hyperparameter[bool]()

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        maximize: bool = False,
        **common: Unpack[Common],
    ) -> None:
        hyper = {"lr_decay": lr_decay, "weight_decay": weight_decay, "eps": eps, "maximize": maximize}
        hyper["initial_accumulator_value"] = initial_accumulator_value
        super().__init__(params, lr, hyper, **common)

    @classmethod
    def _rule(cls, lr_decay, weight_decay, initial_accumulator_value, eps, maximize):
        hyper = positive(eps, weight_decay) | {
            "lr_decay": number("lr_decay", lr_decay),
            "initial_accumulator_value": number("initial_accumulator_value", initial_accumulator_value),
        }
        return "adagrad" + "_decayed" * (lr_decay > 0), hyper, {"maximize": flag("maximize", maximize)}

    @staticmethod
    def _initial(settings, state):
        return settings.numbers["initial_accumulator_value"]


class Adadelta(Optimizer):
    """Adadelta: steps in units of the steps before.

    g += weight_decay * w; v = rho * v + (1 - rho) * g^2; d = sqrt(a + eps) / sqrt(v + eps) * g; w -= lr * d;
    a = rho * a + (1 - rho) * d^2. maximize: g = -g first.

    lr, eps, weight_decay >= 0, 0 <= rho < 1. Raises ValueError or TypeError naming the argument.
    Source: Zeiler 2012, https://arxiv.org/abs/1212.5701, as in torch.optim.Adadelta.
    """

    __slots__ = ()

    rho = Hyperparameter[float]()
    eps = Hyperparameter[float]()
    weight_decay = Hyperparameter[float]()
    maximize = Hyperparameter[bool]()

    def __init__(
        self,
        params: Params,
        lr: Rate = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        maximize: bool = False,
        **common: Unpack[Common],
    ) -> None:
        hyper = {"rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, lr, hyper, **common)

    @classmethod
    def _rule(cls, rho, eps, weight_decay, maximize):
        rho = number("rho", rho, high=1, high_is_open=True)
        hyper = {"rho": rho, "rest": 1 - rho} | positive(eps, weight_decay)
        return "adadelta", hyper, {"maximize": flag("maximize", maximize)}


class RMSprop(Optimizer):
    """RMSprop: the gradient over the root of the running mean of its square.

    g += weight_decay * w; v = alpha * v + (1 - alpha) * g^2; u = g / (sqrt(v) + eps); w -= lr * u. centered: v less the
    square of m = alpha * m + (1 - alpha) * g under the root, kept as what it is equal to but for rounding, which is
    never < 0: s = alpha * (s + (1 - alpha) * (g - m)^2) with the m before. momentum > 0: b = momentum * b + u;
    w -= lr * b. maximize: g = -g first.

    lr, eps, weight_decay >= 0, 0 <= alpha < 1, 0 <= momentum < 1. Raises ValueError or TypeError naming the argument.
    Source: Tieleman and Hinton 2012, lecture 6e; centered: Graves 2013, https://arxiv.org/abs/1308.0850; as in
    torch.optim.RMSprop.
    """

    __slots__ = ()

    alpha = Hyperparameter[float]()
    eps = Hyperparameter[float]()
    weight_decay = Hyperparameter[float]()
    momentum = Hyperparameter[float]()
    centered = Hyperparameter[bool]()
    maximize = Hyperparameter[bool]()

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        maximize: bool = False,
        **common: Unpack[Common],
    ) -> None:
        hyper = {"alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, lr, hyper | {"centered": centered, "maximize": maximize}, **common)

    @classmethod
    def _rule(cls, alpha, eps, weight_decay, momentum, centered, maximize):
        alpha = number("alpha", alpha, high=1, high_is_open=True)
        hyper = {"alpha": alpha, "rest": 1 - alpha, "momentum": number("momentum", momentum, high=1, high_is_open=True)}
        flags = {"centered": flag("centered", centered), "maximize": flag("maximize", maximize)}
        name = "rmsprop" + "_centered" * centered + "_momentum" * (hyper["momentum"] > 0)
        return name, hyper | positive(eps, weight_decay), flags
