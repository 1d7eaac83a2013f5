"""Optimizers with adaptive learning rates, with torch.optim's names, defaults and formulas where it has them."""

from .checks import flag, number
from .optimizer import Optimizer


def betas_of(betas):
    """The two betas as a rule takes them, with what they leave to the new value, rounded once from float64."""
    if not isinstance(betas, list | tuple) or len(betas) != 2:
        raise TypeError(f"betas: expected two numbers, got {betas!r}")
    beta1, beta2 = (number(f"betas[{k}]", beta, high=1, high_is_open=True) for k, beta in enumerate(betas))
    return {"beta1": beta1, "beta2": beta2, "rest1": 1 - beta1, "rest2": 1 - beta2}


def positive(eps, weight_decay):
    return {"eps": number("eps", eps), "weight_decay": number("weight_decay", weight_decay)}


class Adagrad(Optimizer):
    """Adagrad: each weight's lr falls with the sum of its squared gradients.

    g += weight_decay * w; s += g^2; w -= lr / (1 + t * lr_decay) * g / (sqrt(s) + eps), t = 0, 1, …; s starts at
    initial_accumulator_value. maximize: g = -g first.

    lr, lr_decay, weight_decay, initial_accumulator_value, eps >= 0. Raises ValueError or TypeError naming the argument.
    Source: Duchi, Hazan and Singer 2011, https://jmlr.org/papers/v12/duchi11a.html, as in torch.optim.Adagrad.
    """

    __slots__ = ()

    def __init__(
        self,
        params,
        lr=1e-2,
        lr_decay=0,
        weight_decay=0,
        initial_accumulator_value=0,
        eps=1e-10,
        maximize=False,
        **common,
    ):
        hyper = {"lr_decay": lr_decay, "weight_decay": weight_decay, "eps": eps, "maximize": maximize}
        hyper["initial_accumulator_value"] = initial_accumulator_value
        super().__init__(params, lr, hyper, **common)

    @staticmethod
    def _rule(lr_decay, weight_decay, initial_accumulator_value, eps, maximize):
        hyper = positive(eps, weight_decay) | {
            "lr_decay": number("lr_decay", lr_decay),
            "initial_accumulator_value": number("initial_accumulator_value", initial_accumulator_value),
        }
        return "adagrad" + "_decayed" * (lr_decay > 0), hyper, {"maximize": flag("maximize", maximize)}

    def _initial(self, group, state):
        return group.hyper["initial_accumulator_value"]


class Adadelta(Optimizer):
    """Adadelta: steps in units of the steps before.

    g += weight_decay * w; v = rho * v + (1 - rho) * g^2; d = sqrt(a + eps) / sqrt(v + eps) * g; w -= lr * d;
    a = rho * a + (1 - rho) * d^2. maximize: g = -g first.

    lr, eps, weight_decay >= 0, 0 <= rho < 1. Raises ValueError or TypeError naming the argument.
    Source: Zeiler 2012, https://arxiv.org/abs/1212.5701, as in torch.optim.Adadelta.
    """

    __slots__ = ()

    def __init__(self, params, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0, maximize=False, **common):
        hyper = {"rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, lr, hyper, **common)

    @staticmethod
    def _rule(rho, eps, weight_decay, maximize):
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

    def __init__(
        self,
        params,
        lr=1e-2,
        alpha=0.99,
        eps=1e-8,
        weight_decay=0,
        momentum=0,
        centered=False,
        maximize=False,
        **common,
    ):
        hyper = {"alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, lr, hyper | {"centered": centered, "maximize": maximize}, **common)

    @staticmethod
    def _rule(alpha, eps, weight_decay, momentum, centered, maximize):
        alpha = number("alpha", alpha, high=1, high_is_open=True)
        hyper = {"alpha": alpha, "rest": 1 - alpha, "momentum": number("momentum", momentum, high=1, high_is_open=True)}
        flags = {"centered": flag("centered", centered), "maximize": flag("maximize", maximize)}
        name = "rmsprop" + "_centered" * centered + "_momentum" * (hyper["momentum"] > 0)
        return name, hyper | positive(eps, weight_decay), flags


class _Moments(Optimizer):
    """What has two betas, eps and weight_decay. family: the rule's name."""

    __slots__ = ()

    family = None

    def __init__(self, params, lr, betas, eps, weight_decay, maximize, own=None, **common):
        hyper = {"betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, lr, hyper | (own or {}), **common)

    def _rule(self, betas, eps, weight_decay, maximize):
        return self.family, betas_of(betas) | positive(eps, weight_decay), {"maximize": flag("maximize", maximize)}


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

    family = "adam"

    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False, maximize=False, **common
    ):
        super().__init__(params, lr, betas, eps, weight_decay, maximize, {"amsgrad": amsgrad}, **common)

    def _rule(self, betas, eps, weight_decay, amsgrad, maximize):
        own = {"amsgrad": flag("amsgrad", amsgrad)}
        family, hyper, flags = super()._rule(betas, eps, weight_decay, maximize)
        return family + "_amsgrad" * amsgrad, hyper, flags | own


class AdamW(Adam):
    """Adam with decoupled weight decay: w *= 1 - lr * weight_decay, then Adam's step with g as it is.

    Arguments as Adam's. Source: Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101, as in torch.optim.AdamW.
    """

    __slots__ = ()

    family = "adamw"

    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False, maximize=False, **common
    ):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize, **common)


class Adamax(_Moments):
    """Adam with the largest gradient, decayed, in the place of the root mean square.

    g += weight_decay * w; m = beta1 * m + (1 - beta1) * g; u = max(beta2 * u, |g| + eps);
    w -= lr / (1 - beta1^t) * m / u, t = 1, 2, …. maximize: g = -g first.

    Arguments as Adam's. Source: Kingma and Ba 2015, section 7.1, as in torch.optim.Adamax.
    """

    __slots__ = ()

    family = "adamax"

    def __init__(self, params, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, maximize=False, **common):
        super().__init__(params, lr, betas, eps, weight_decay, maximize, **common)


class _Decoupling(_Moments):
    """What may decouple its weight decay."""

    __slots__ = ()

    def _rule(self, decoupled_weight_decay, **hyper):
        own = {"decoupled": flag("decoupled_weight_decay", decoupled_weight_decay)}
        family, hyper, flags = super()._rule(**hyper)
        return family, hyper, flags | own


class NAdam(_Decoupling):
    """Adam with Nesterov's momentum, whose share grows: mu_t = beta1 * (1 - 0.96^(t * momentum_decay) / 2).

    g, m and v as Adam's; p = product of mu_1 … mu_t; w -= lr * ((1 - mu_t) / (1 - p) * g
    + mu_{t+1} / (1 - p * mu_{t+1}) * m) / (sqrt(v / (1 - beta2^t)) + eps). maximize: g = -g first.
    decoupled_weight_decay: w *= 1 - lr * weight_decay first, and g as it is.

    momentum_decay >= 0, the others as Adam's. Source: Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ,
    as in torch.optim.NAdam.
    """

    __slots__ = ()

    family = "nadam"

    def __init__(
        self,
        params,
        lr=2e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0,
        momentum_decay=4e-3,
        decoupled_weight_decay=False,
        maximize=False,
        **common,
    ):
        own = {"momentum_decay": momentum_decay, "decoupled_weight_decay": decoupled_weight_decay}
        super().__init__(params, lr, betas, eps, weight_decay, maximize, own, **common)

    def _rule(self, momentum_decay, **hyper):
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
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0,
        decoupled_weight_decay=False,
        maximize=False,
        **common,
    ):
        own = {"decoupled_weight_decay": decoupled_weight_decay}
        super().__init__(params, lr, betas, eps, weight_decay, maximize, own, **common)


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
