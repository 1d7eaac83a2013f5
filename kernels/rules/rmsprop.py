"""RMSprop, plain and centered, with momentum or without."""

from ..backend.scalars import fma, sqrt
from .rule import Rule


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


_REFERENCE = (
    "Tieleman and Hinton 2012, Coursera lecture 6e; centered: Graves 2013, "
    "https://docs.pytorch.org/docs/stable/generated/torch.optim.RMSprop.html"
)
_PLAIN: dict = {"squares": ("square_avg",), "flags": ("maximize",), "reference": _REFERENCE}
# torch keeps the mean of squares where we keep the variance.
_CENTERED = _PLAIN | {"squares": ("variance",), "torch": {"variance": ("square_avg", square_of, variance_of)}}

ROWS = (
    Rule(
        rmsprop,
        name="rmsprop",
        state=("square_avg",),
        absent=("variance", "grad_avg", "momentum_buffer"),
        fixed={"centered": False, "heavy": False},
        **_PLAIN,
    ),
    Rule(
        rmsprop,
        name="rmsprop_momentum",
        state=("square_avg", "momentum_buffer"),
        absent=("variance", "grad_avg"),
        fixed={"centered": False, "heavy": True},
        **_PLAIN,
    ),
    Rule(
        rmsprop,
        name="rmsprop_centered",
        state=("variance", "grad_avg"),
        absent=("square_avg", "momentum_buffer"),
        fixed={"centered": True, "heavy": False},
        **_CENTERED,
    ),
    Rule(
        rmsprop,
        name="rmsprop_centered_momentum",
        state=("variance", "grad_avg", "momentum_buffer"),
        absent=("square_avg",),
        fixed={"centered": True, "heavy": True},
        **_CENTERED,
    ),
)
