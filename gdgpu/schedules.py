"""Learning rates as functions of the number of completed steps, for `lr=`.

Every function here returns a function t -> lr, t = 0, 1, …; after its last step it stays where it is. A rate beyond
the largest float is inf, which an optimizer refuses. All raise ValueError or TypeError naming the argument.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

from .core.checks import MAX_STEPS, count, element, number
from .typing import Schedule

_FAR = int(sys.float_info.max)  # no power of a float changes further on


@dataclass(frozen=True)
class _Rate:
    """A schedule with its arguments: it can be pickled, and says what it is."""

    function: Callable[..., float]
    arguments: tuple[tuple[str, float], ...]

    def __call__(self, t: int) -> float:
        return self.function(element(t), **dict(self.arguments))

    def __repr__(self) -> str:
        return f"{self.function.__name__[1:]}({', '.join(f'{name}={value:g}' for name, value in self.arguments)})"


def _rate(function: Callable[..., float], **arguments: float) -> Schedule:
    return _Rate(function, tuple(arguments.items()))


def constant(lr: float) -> Schedule:
    """lr, at every step."""
    return _rate(_constant, lr=number("lr", lr))


def _constant(t: int, lr: float) -> float:
    return lr


def step(lr: float, every: int, factor: float = 0.1) -> Schedule:
    """lr * factor^floor(t / every): lr changes by the factor after every so many steps (torch's StepLR)."""
    lr, every, factor = number("lr", lr), count("every", every, least=1, limit=MAX_STEPS), number("factor", factor)
    return _rate(_step, lr=lr, every=every, factor=factor)


def _step(t: int, lr: float, every: int, factor: float) -> float:
    return _times_power(lr, factor, t // every)


def exponential(lr: float, factor: float) -> Schedule:
    """lr * factor^t (torch's ExponentialLR); with a factor above 1, a test of which rates are too large."""
    return _rate(_exponential, lr=number("lr", lr), factor=number("factor", factor))


def _exponential(t: int, lr: float, factor: float) -> float:
    return _times_power(lr, factor, t)


def cosine(lr: float, steps: int, warmup: int = 0, final: float = 0.0) -> Schedule:
    """From lr down to `final` along half a cosine; before, a straight rise over `warmup` of the `steps`.

    t < warmup: lr * (t + 1) / warmup; then final + (lr - final) * (1 + cos(pi * (t - warmup) / (steps - warmup))) / 2.
    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983 (torch's CosineAnnealingLR).
    """
    lr, final = number("lr", lr), number("final", final)
    steps, warmup = count("steps", steps, least=1, limit=MAX_STEPS), count("warmup", warmup, limit=MAX_STEPS)
    if warmup >= steps:
        raise ValueError(f"warmup: expected fewer than the {steps} steps, got {warmup}")
    return _rate(_cosine, lr=lr, steps=steps, warmup=warmup, final=final)


def _cosine(t: int, lr: float, steps: int, warmup: int, final: float) -> float:
    t = min(t, steps)
    if t < warmup:
        return lr * (t + 1) / warmup
    return _between(lr, final, (t - warmup) / (steps - warmup))


def one_cycle(lr: float, steps: int, rise: float = 0.3, start: float = 25.0, final: float = 1e4) -> Schedule:
    """Up to lr and down again, each along half a cosine: from lr / start, over rise * steps, to lr / start / final.

    Source: Smith and Topin 2019, https://arxiv.org/abs/1708.07120, as torch's OneCycleLR.
    """
    lr, steps = number("lr", lr), count("steps", steps, least=2, limit=MAX_STEPS)
    rise = number("rise", rise, high=1)
    start, final = number("start", start, low=1), number("final", final, low=1)
    return _rate(_one_cycle, lr=lr, steps=steps, rise=rise, start=start, final=final)


def _one_cycle(t: int, lr: float, steps: int, rise: float, start: float, final: float) -> float:
    t, top = min(t, steps - 1), rise * steps - 1
    if t <= top:
        return _between(lr / start, lr, t / top if top else 1.0)
    return _between(lr, lr / start / final, (t - top) / (steps - 1 - top))


def inverse_sqrt(lr: float, warmup: int) -> Schedule:
    """lr * min((t + 1) / warmup, sqrt(warmup / (t + 1))): a straight rise to lr, then the inverse square root.

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 5.3.
    """
    return _rate(_inverse_sqrt, lr=number("lr", lr), warmup=count("warmup", warmup, least=1, limit=MAX_STEPS))


def _inverse_sqrt(t: int, lr: float, warmup: int) -> float:
    done = t + 1
    return lr * (done / warmup if done <= warmup else math.sqrt(warmup / done))


def _times_power(lr: float, factor: float, exponent: int) -> float:
    """lr * factor^exponent; inf where that is more than a float holds."""
    try:
        return lr * factor ** min(exponent, _FAR)
    except OverflowError:
        return math.inf if lr else 0.0


def _between(first: float, last: float, share: float) -> float:
    """Along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2
