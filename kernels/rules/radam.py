"""RAdam: Adam whose root is used once its variance is known well enough."""

from ..backend.scalars import fma, sqrt
from .rule import Rule


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


ROWS = (
    Rule(
        radam,
        state=("exp_avg", "exp_avg_sq"),
        squares=("exp_avg_sq",),
        flags=("decoupled", "maximize"),
        step=radam_step,
        given=("step_size", "rectified", "keep"),
        carried={"power1": 1.0, "power2": 1.0, "t": 0.0},
        counted=("power1", "power2", "t"),
        reference="Liu et al. 2020, https://arxiv.org/abs/1908.03265; "
        "https://docs.pytorch.org/docs/stable/generated/torch.optim.RAdam.html",
    ),
)
