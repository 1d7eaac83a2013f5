"""NAdam: Adam with Nesterov's momentum."""

from ..backend.scalars import fma, sqrt
from .rule import Rule


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


ROWS = (
    Rule(
        nadam,
        state=("exp_avg", "exp_avg_sq"),
        squares=("exp_avg_sq",),
        flags=("decoupled", "maximize"),
        step=nadam_step,
        given=("of_g", "of_avg", "root", "keep"),
        carried={"power2": 1.0, "decayed": 1.0, "product": 1.0},
        counted=("power2", "decayed"),
        reference="Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ; "
        "https://docs.pytorch.org/docs/stable/generated/torch.optim.NAdam.html",
    ),
)
