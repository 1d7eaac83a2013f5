"""The rules with adaptive learning rates, and the step scalars of those that have some.

Bias corrections come from running products in float64. A product that is added to something is an explicit fma there
too, so that no compiler rounds it on one device and not on another.
"""

from .rule import Rule
from .scalars import fma, maximum, sign, sqrt

_TORCH = "https://docs.pytorch.org/docs/stable/generated/torch.optim."


def adagrad(w, g, sum, lr, eps, weight_decay, maximize):
    if maximize:
        g = -g
    if weight_decay != 0:
        g = fma(weight_decay, w, g)
    sum = fma(g, g, sum)
    return fma(-lr, g / (sqrt(sum) + eps), w), sum


def adagrad_step(t, lr, lr_decay):
    return t + 1, lr / fma(t, lr_decay, 1)


def adadelta(w, g, square_avg, acc_delta, lr, rho, rest, eps, weight_decay, maximize):
    if maximize:
        g = -g
    if weight_decay != 0:
        g = fma(weight_decay, w, g)
    square_avg = fma(rho, square_avg, rest * g * g)
    delta = sqrt(acc_delta + eps) / sqrt(square_avg + eps) * g
    return fma(-lr, delta, w), square_avg, fma(rho, acc_delta, rest * delta * delta)


def rmsprop(
    w,
    g,
    square_avg,
    variance,
    grad_avg,
    momentum_buffer,
    lr,
    alpha,
    rest,
    eps,
    momentum,
    weight_decay,
    centered,
    heavy,
    maximize,
):
    if maximize:
        g = -g
    if weight_decay != 0:
        g = fma(weight_decay, w, g)
    if centered:
        # What square_avg - grad_avg^2 is, with no difference of what is nearly equal: that one rounds to less than 0.
        deviation = g - grad_avg
        variance = alpha * fma(rest * deviation, deviation, variance)
        grad_avg = fma(rest, deviation, grad_avg)
        square = variance
    else:
        square_avg = fma(alpha, square_avg, rest * g * g)
        square = square_avg
    step = g / (sqrt(square) + eps)
    if heavy:
        momentum_buffer = fma(momentum, momentum_buffer, step)
        step = momentum_buffer
    return fma(-lr, step, w), square_avg, variance, grad_avg, momentum_buffer


def square_of(variance, grad_avg):
    return variance + grad_avg * grad_avg


def variance_of(square_avg, grad_avg):
    return (square_avg - grad_avg * grad_avg).clip(min=0)


def adam(
    w,
    g,
    exp_avg,
    exp_avg_sq,
    max_exp_avg_sq,
    step_size,
    root,
    keep,
    rest1,
    rest2,
    beta1,
    beta2,
    eps,
    weight_decay,
    decoupled,
    amsgrad,
    maximize,
):
    if maximize:
        g = -g
    if decoupled:
        w = keep * w
    elif weight_decay != 0:
        g = fma(weight_decay, w, g)
    exp_avg = fma(beta1, exp_avg, rest1 * g)
    exp_avg_sq = fma(beta2, exp_avg_sq, rest2 * g * g)
    square = exp_avg_sq
    if amsgrad:
        max_exp_avg_sq = maximum(max_exp_avg_sq, exp_avg_sq)
        square = max_exp_avg_sq
    return fma(-step_size, exp_avg / (sqrt(square) * root + eps), w), exp_avg, exp_avg_sq, max_exp_avg_sq


def adam_step(power1, power2, lr, beta1, beta2, weight_decay):
    power1, power2 = power1 * beta1, power2 * beta2
    step_size, root = lr / fma(-1, power1, 1), 1 / sqrt(fma(-1, power2, 1))
    return power1, power2, step_size, root, fma(-lr, weight_decay, 1)


def adamax(w, g, exp_avg, exp_inf, step_size, rest1, beta1, beta2, eps, weight_decay, maximize):
    if maximize:
        g = -g
    if weight_decay != 0:
        g = fma(weight_decay, w, g)
    exp_avg = fma(beta1, exp_avg, rest1 * g)
    exp_inf = maximum(beta2 * exp_inf, maximum(g, -g) + eps)
    return fma(-step_size, exp_avg / exp_inf, w), exp_avg, exp_inf


def adamax_step(power1, lr, beta1):
    power1 = power1 * beta1
    return power1, lr / fma(-1, power1, 1)


def nadam(
    w,
    g,
    exp_avg,
    exp_avg_sq,
    of_g,
    of_avg,
    root,
    keep,
    rest1,
    rest2,
    beta1,
    beta2,
    eps,
    weight_decay,
    decoupled,
    maximize,
):
    if maximize:
        g = -g
    if decoupled:
        w = keep * w
    elif weight_decay != 0:
        g = fma(weight_decay, w, g)
    exp_avg = fma(beta1, exp_avg, rest1 * g)
    exp_avg_sq = fma(beta2, exp_avg_sq, rest2 * g * g)
    scale = sqrt(exp_avg_sq) * root + eps
    return fma(-of_avg, exp_avg / scale, fma(-of_g, g / scale, w)), exp_avg, exp_avg_sq


def nadam_step(power2, decayed, product, lr, beta1, beta2, decay, weight_decay):
    power2, decayed = power2 * beta2, decayed * decay
    now, then = beta1 * fma(-0.5, decayed, 1), beta1 * fma(-0.5, decayed * decay, 1)
    product = product * now
    of_g = lr * fma(-1, now, 1) / fma(-1, product, 1)
    of_avg, root = lr * then / fma(-product, then, 1), 1 / sqrt(fma(-1, power2, 1))
    return power2, decayed, product, of_g, of_avg, root, fma(-lr, weight_decay, 1)


def radam(
    w,
    g,
    exp_avg,
    exp_avg_sq,
    step_size,
    rectified,
    keep,
    rest1,
    rest2,
    beta1,
    beta2,
    eps,
    weight_decay,
    decoupled,
    maximize,
):
    if maximize:
        g = -g
    if decoupled:
        w = keep * w
    elif weight_decay != 0:
        g = fma(weight_decay, w, g)
    exp_avg = fma(beta1, exp_avg, rest1 * g)
    exp_avg_sq = fma(beta2, exp_avg_sq, rest2 * g * g)
    step = exp_avg
    if rectified != 0:
        step = exp_avg / (sqrt(exp_avg_sq) + eps)
    return fma(-step_size, step, w), exp_avg, exp_avg_sq


def radam_step(power1, power2, t, lr, beta1, beta2, weight_decay):
    power1, power2, t = power1 * beta1, power2 * beta2, t + 1
    left = fma(-1, power2, 1)
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * t * power2 / left
    step_size, rectified = lr / fma(-1, power1, 1), 0.0
    if length > 5:
        variance = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        step_size, rectified = step_size * sqrt(variance * left), 1.0
    return power1, power2, t, step_size, rectified, fma(-lr, weight_decay, 1)


def lion(w, g, exp_avg, lr, rest1, rest2, beta1, beta2, weight_decay, maximize):
    if maximize:
        g = -g
    step = sign(fma(beta1, exp_avg, rest1 * g))
    return fma(-lr, step, fma(-lr, weight_decay, 1) * w), fma(beta2, exp_avg, rest2 * g)


_MOMENTS = ("exp_avg", "exp_avg_sq")
_ADAM = f"Kingma and Ba 2015, https://arxiv.org/abs/1412.6980; {_TORCH}Adam.html"
_ADAMW = f"Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101; {_TORCH}AdamW.html"
_POWERS = {"power1": 1.0, "power2": 1.0}

ADAPTIVE = (
    *(
        Rule(
            adagrad,
            state=("sum",),
            squares=("sum",),
            flags=("maximize",),
            reference=f"Duchi, Hazan and Singer 2011, https://jmlr.org/papers/v12/duchi11a.html; {_TORCH}Adagrad.html",
            **decayed,
        )
        for decayed in ({}, {"name": "adagrad_decayed", "step": adagrad_step, "given": ("lr",), "carried": {"t": 0.0}})
    ),
    Rule(
        adadelta,
        state=("square_avg", "acc_delta"),
        squares=("square_avg", "acc_delta"),
        flags=("maximize",),
        reference=f"Zeiler 2012, https://arxiv.org/abs/1212.5701; {_TORCH}Adadelta.html",
    ),
    *(
        Rule(
            rmsprop,
            state=(*(("variance", "grad_avg") if centered else ("square_avg",)), *["momentum_buffer"] * heavy),
            squares=("variance" if centered else "square_avg",),
            absent=(*(("square_avg",) if centered else ("variance", "grad_avg")), *["momentum_buffer"] * (not heavy)),
            torch={"variance": ("square_avg", square_of, variance_of)} if centered else {},
            flags=("maximize",),
            fixed={"centered": centered, "heavy": heavy},
            name="rmsprop" + "_centered" * centered + "_momentum" * heavy,
            reference=f"Tieleman and Hinton 2012, Coursera lecture 6e; centered: Graves 2013, {_TORCH}RMSprop.html",
        )
        for centered in (False, True)
        for heavy in (False, True)
    ),
    *(
        Rule(
            adam,
            state=(*_MOMENTS, *["max_exp_avg_sq"] * amsgrad),
            squares=("exp_avg_sq", "max_exp_avg_sq"),
            absent=() if amsgrad else ("max_exp_avg_sq",),
            flags=("maximize",),
            fixed={"decoupled": decoupled, "amsgrad": amsgrad},
            name="adam" + "w" * decoupled + "_amsgrad" * amsgrad,
            step=adam_step,
            given=("step_size", "root", "keep"),
            carried=_POWERS,
            reference=f"{_ADAMW if decoupled else _ADAM}; amsgrad: Reddi et al. 2018, https://arxiv.org/abs/1904.09237",
        )
        for decoupled in (False, True)
        for amsgrad in (False, True)
    ),
    Rule(
        adamax,
        state=("exp_avg", "exp_inf"),
        nonnegative=("exp_inf",),
        flags=("maximize",),
        step=adamax_step,
        given=("step_size",),
        carried={"power1": 1.0},
        reference=f"Kingma and Ba 2015, section 7.1; {_TORCH}Adamax.html",
    ),
    Rule(
        nadam,
        state=_MOMENTS,
        squares=("exp_avg_sq",),
        flags=("decoupled", "maximize"),
        step=nadam_step,
        given=("of_g", "of_avg", "root", "keep"),
        carried={"power2": 1.0, "decayed": 1.0, "product": 1.0},
        reference=f"Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ; {_TORCH}NAdam.html",
    ),
    Rule(
        radam,
        state=_MOMENTS,
        squares=("exp_avg_sq",),
        flags=("decoupled", "maximize"),
        step=radam_step,
        given=("step_size", "rectified", "keep"),
        carried=_POWERS | {"t": 0.0},
        reference=f"Liu et al. 2020, https://arxiv.org/abs/1908.03265; {_TORCH}RAdam.html",
    ),
    Rule(
        lion,
        state=("exp_avg",),
        flags=("maximize",),
        reference="Chen et al. 2023, https://arxiv.org/abs/2302.06675",
    ),
)
