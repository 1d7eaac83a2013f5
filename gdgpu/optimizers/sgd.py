"""The optimizers: for each its hyperparameters, their checks, and the rule that they call for."""

from typing import Unpack

from ..core.checks import flag, number
from ..typing import Params, Rate
from .base import Optimizer
from .hyperparameters import Hyperparameter
from .precision import Common


class SGD(Optimizer):
    """Stochastic gradient descent in PyTorch's form.

    g += weight_decay * w; b = momentum * b + (1 - dampening) * g, the first time b = g; u = b, or with nesterov
    u = g + momentum * b; w -= lr * u. maximize: g = -g first. momentum = 0 keeps no state.

    lr >= 0, 0 <= momentum < 1, 0 <= dampening <= 1, weight_decay >= 0; nesterov needs momentum > 0 and
    dampening = 0. Raises ValueError or TypeError naming the argument.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html
    """

    __slots__ = ()

    momentum = Hyperparameter[float]()
    dampening = Hyperparameter[float]()
    weight_decay = Hyperparameter[float]()
    nesterov = Hyperparameter[bool]()
    maximize = Hyperparameter[bool]()

    def __init__(
        self,
        params: Params,
        lr: Rate,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        maximize: bool = False,
        **common: Unpack[Common],
    ) -> None:
        hyper = {"momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, lr, hyper | {"nesterov": nesterov, "maximize": maximize}, **common)

    @classmethod
    def _rule(cls, momentum, dampening, weight_decay, nesterov, maximize):
        hyper = {
            "momentum": number("momentum", momentum, high=1, high_is_open=True),
            "dampening": number("dampening", dampening, high=1),
            "weight_decay": number("weight_decay", weight_decay),
        }
        flags = {"nesterov": flag("nesterov", nesterov), "maximize": flag("maximize", maximize)}
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError(f"nesterov: needs momentum > 0 and dampening = 0, got {momentum:g} and {dampening:g}")
        name = "sgd" + "_dampened" * (dampening > 0) if momentum else "gradient_descent"
        return name, hyper | {"rest": 1.0}, flags


class Momentum(Optimizer):
    """Gradient descent with momentum, the heavy ball: v = momentum * v - lr * g; w = w + v.

    Equal to v_t = -lr * sum_k momentum^k g_{t-k}. nesterov: w = w + momentum * v - lr * g, with the new v.
    g includes weight_decay * w; maximize: g = -g first. When lr changes, each step keeps the lr it was made with.

    lr >= 0, 0 <= momentum < 1, weight_decay >= 0. Raises ValueError or TypeError naming the argument.
    Source: Polyak 1964, doi:10.1016/0041-5553(64)90137-5; nesterov as in Sutskever et al., ICML 2013.
    """

    __slots__ = ()

    momentum = Hyperparameter[float]()
    nesterov = Hyperparameter[bool]()
    weight_decay = Hyperparameter[float]()
    maximize = Hyperparameter[bool]()

    def __init__(
        self,
        params: Params,
        lr: Rate,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0,
        maximize: bool = False,
        **common: Unpack[Common],
    ) -> None:
        hyper = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, lr, hyper, **common)

    @classmethod
    def _rule(cls, momentum, nesterov, weight_decay, maximize):
        hyper = {
            "momentum": number("momentum", momentum, high=1, high_is_open=True),
            "weight_decay": number("weight_decay", weight_decay),
        }
        flags = {"nesterov": flag("nesterov", nesterov), "maximize": flag("maximize", maximize)}
        return "momentum", hyper, flags
