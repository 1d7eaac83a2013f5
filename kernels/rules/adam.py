"""Adam and AdamW, with amsgrad or without.

Bias corrections come from running products in float64. A product that is added to something is an explicit fma there
too, so that no compiler rounds it on one device and not on another.
"""

from ..backend.scalars import fma, maximum, sqrt
from .rule import Rule


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


_AMSGRAD = "amsgrad: Reddi et al. 2018, https://arxiv.org/abs/1904.09237"
_ADAM = (
    "Kingma and Ba 2015, https://arxiv.org/abs/1412.6980; "
    f"https://docs.pytorch.org/docs/stable/generated/torch.optim.Adam.html; {_AMSGRAD}"
)
_ADAMW = (
    "Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101; "
    f"https://docs.pytorch.org/docs/stable/generated/torch.optim.AdamW.html; {_AMSGRAD}"
)
_ALL: dict = {
    "squares": ("exp_avg_sq", "max_exp_avg_sq"),
    "flags": ("maximize",),
    "step": adam_step,
    "given": ("step_size", "root", "keep"),
    "carried": {"power1": 1.0, "power2": 1.0},
    "counted": ("power1", "power2"),
}

ROWS = (
    Rule(
        adam,
        name="adam",
        state=("exp_avg", "exp_avg_sq"),
        absent=("max_exp_avg_sq",),
        fixed={"decoupled": False, "amsgrad": False},
        reference=_ADAM,
        **_ALL,
    ),
    Rule(
        adam,
        name="adam_amsgrad",
        state=("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
        fixed={"decoupled": False, "amsgrad": True},
        reference=_ADAM,
        **_ALL,
    ),
    Rule(
        adam,
        name="adamw",
        state=("exp_avg", "exp_avg_sq"),
        absent=("max_exp_avg_sq",),
        fixed={"decoupled": True, "amsgrad": False},
        reference=_ADAMW,
        **_ALL,
    ),
    Rule(
        adam,
        name="adamw_amsgrad",
        state=("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
        fixed={"decoupled": True, "amsgrad": True},
        reference=_ADAMW,
        **_ALL,
    ),
)
