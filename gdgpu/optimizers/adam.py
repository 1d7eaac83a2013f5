"""Adam and its kin, with torch.optim's names, defaults and formulas."""

from typing import Any, Unpack

from ..core.checks import flag, number
from ..typing import Params, Rate
from .base import Optimizer
from .hyperparameters import Hyperparameter, betas_of, positive
from .precision import Common


class _Moments(Optimizer):
    """What has two betas, eps and weight_decay. family: the rule's name."""

    __slots__ = ()

    betas = Hyperparameter[tuple[float, float]]()
    eps = Hyperparameter[float]()
    weight_decay = Hyperparameter[float]()
    maximize = Hyperparameter[bool]()

    family = None

    def __init__(
        self,
        params: Params,
        lr: Rate,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        maximize: bool,
        options: dict[str, Any] | None = None,
        **common: Unpack[Common],
    ) -> None:
        hyper = {"betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, lr, hyper | (options or {}), **common)

    @classmethod
    def _rule(cls, betas, eps, weight_decay, maximize):
        return cls.family, betas_of(betas) | positive(eps, weight_decay), {"maximize": flag("maximize", maximize)}


class Adam(_Moments):
    """Adam: a step in units of lr, from running means of the gradient and of its square.

    g += weight_decay * w; m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * g^2;
    w -= lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps), t = 1, 2, …. maximize: g = -g first.
    amsgrad: the largest v so far in the place of v. The powers are running products in float64, kept on the device: a
    step is two launches.

    lr >= 0, betas two numbers in [0, 1), eps >= 0, weight_decay >= 0. Raises ValueError or TypeError naming the
    argument. Source: Kingma and Ba 2015, https://arxiv.org/abs/1412.6980, as in torch.optim.Adam.
    """

    __slots__ = ()

    amsgrad = Hyperparameter[bool]()

    family = "adam"

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        maximize: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, maximize, {"amsgrad": amsgrad}, **common)

    @classmethod
    def _rule(cls, betas, eps, weight_decay, amsgrad, maximize):
        options = {"amsgrad": flag("amsgrad", amsgrad)}
        family, hyper, flags = super()._rule(betas, eps, weight_decay, maximize)
        return family + "_amsgrad" * amsgrad, hyper, flags | options


class AdamW(Adam):
    """Adam with decoupled weight decay: w *= 1 - lr * weight_decay, then Adam's step with g as it is.

    Arguments as Adam's. Source: Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101, as in torch.optim.AdamW.
    """

    __slots__ = ()

    family = "adamw"

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        maximize: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize, **common)


class Adamax(_Moments):
    """Adam with the largest gradient, decayed, in the place of the root mean square.

    g += weight_decay * w; m = beta1 * m + (1 - beta1) * g; u = max(beta2 * u, |g| + eps);
    w -= lr / (1 - beta1^t) * m / u, t = 1, 2, …. maximize: g = -g first.

    Arguments as Adam's. Source: Kingma and Ba 2015, section 7.1, as in torch.optim.Adamax.
    """

    __slots__ = ()

    family = "adamax"

    def __init__(
        self,
        params: Params,
        lr: Rate = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        maximize: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, maximize, **common)


class _Decoupling(_Moments):
    """What may decouple its weight decay."""

    __slots__ = ()

    decoupled_weight_decay = Hyperparameter[bool]()

    @classmethod
    def _rule(cls, decoupled_weight_decay, **hyper):
        options = {"decoupled": flag("decoupled_weight_decay", decoupled_weight_decay)}
        family, hyper, flags = super()._rule(**hyper)
        return family, hyper, flags | options


class NAdam(_Decoupling):
    """Adam with Nesterov's momentum, whose share grows: mu_t = beta1 * (1 - 0.96^(t * momentum_decay) / 2).

    g, m and v as Adam's; p = product of mu_1 … mu_t; w -= lr * ((1 - mu_t) / (1 - p) * g
    + mu_{t+1} / (1 - p * mu_{t+1}) * m) / (sqrt(v / (1 - beta2^t)) + eps). maximize: g = -g first.
    decoupled_weight_decay: w *= 1 - lr * weight_decay first, and g as it is.

    momentum_decay >= 0, the others as Adam's. Source: Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ,
    as in torch.optim.NAdam.
    """

    __slots__ = ()

    momentum_decay = Hyperparameter[float]()

    family = "nadam"

    def __init__(
        self,
        params: Params,
        lr: Rate = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        **common: Unpack[Common],
    ) -> None:
        options = {"momentum_decay": momentum_decay, "decoupled_weight_decay": decoupled_weight_decay}
        super().__init__(params, lr, betas, eps, weight_decay, maximize, options, **common)

    @classmethod
    def _rule(cls, momentum_decay, **hyper):
        momentum_decay = number("momentum_decay", momentum_decay)
        family, hyper, flags = super()._rule(**hyper)
        return family, hyper | {"momentum_decay": momentum_decay, "decay": 0.96**momentum_decay}, flags


class RAdam(_Decoupling):
    """Adam that waits until the variance of its step is known: until then m alone, without the root of v.

    g, m and v as Adam's; r = 2 / (1 - beta2) - 1, r_t = r - 2 * t * beta2^t / (1 - beta2^t); for r_t > 5 the step of
    Adam, with eps added to sqrt(v), times sqrt((r_t - 4) * (r_t - 2) * r / ((r - 4) * (r - 2) * r_t)); before,
    w -= lr / (1 - beta1^t) * m. maximize: g = -g first. decoupled_weight_decay as NAdam's.

    Arguments as Adam's. Source: Liu et al. 2020, https://arxiv.org/abs/1908.03265, as in torch.optim.RAdam.
    """

    __slots__ = ()

    family = "radam"

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        **common: Unpack[Common],
    ) -> None:
        options = {"decoupled_weight_decay": decoupled_weight_decay}
        super().__init__(params, lr, betas, eps, weight_decay, maximize, options, **common)
