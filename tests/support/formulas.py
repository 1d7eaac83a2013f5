"""Every optimizer's step as its documentation has it, over Bounded numbers: (w, g, state, h, t) -> w.

h: hyperparameters, as the optimizer's constructor names them, and lr; t: this step's number, from 1. state, name ->
number, is made new in place; what is carried from step to step besides has a name that begins with a dot.
"""

SQUARES = ("sum", "square_avg", "acc_delta", "variance", "exp_avg_sq", "max_exp_avg_sq")
POSITIVE = ("exp_inf",)


def code_of(state):
    return "unsigned8" if state in SQUARES else "positive8" if state in POSITIVE else "signed8"


def _decayed(w, g, h, decoupled=False):
    if h.get("maximize"):
        g = -g
    return g if decoupled or not h["weight_decay"] else g + w * h["weight_decay"]


def sgd(w, g, s, h, t):
    g = _decayed(w, g, h)
    if not h["momentum"]:
        return w - g * h["lr"]
    s["momentum_buffer"] = b = g if t == 1 else s["momentum_buffer"] * h["momentum"] + g * (1 - h["dampening"])
    return w - (g + b * h["momentum"] if h["nesterov"] else b) * h["lr"]


def momentum(w, g, s, h, t):
    step = _decayed(w, g, h) * h["lr"]
    s["velocity"] = v = s["velocity"] * h["momentum"] - step
    return w + v * h["momentum"] - step if h["nesterov"] else w + v


def adagrad(w, g, s, h, t):
    g = _decayed(w, g, h)
    s["sum"] = s["sum"] + g * g
    return w - g / (s["sum"].sqrt() + h["eps"]) * (h["lr"] / (1 + (t - 1) * h["lr_decay"]))


def _mean(old, new, beta):
    return old * beta + new * (1 - beta)


def adadelta(w, g, s, h, t):
    g, rho, eps = _decayed(w, g, h), h["rho"], h["eps"]
    s["square_avg"] = _mean(s["square_avg"], g * g, rho)
    delta = (s["acc_delta"] + eps).sqrt() / (s["square_avg"] + eps).sqrt() * g
    s["acc_delta"] = _mean(s["acc_delta"], delta * delta, rho)
    return w - delta * h["lr"]


def rmsprop(w, g, s, h, t):
    g, alpha = _decayed(w, g, h), h["alpha"]
    if h["centered"]:
        d = g - s["grad_avg"]
        s["variance"] = square = (s["variance"] + d * d * (1 - alpha)) * alpha
        s["grad_avg"] = s["grad_avg"] + d * (1 - alpha)
    else:
        s["square_avg"] = square = _mean(s["square_avg"], g * g, alpha)
    step = g / (square.sqrt() + h["eps"])
    if h["momentum"]:
        s["momentum_buffer"] = step = s["momentum_buffer"] * h["momentum"] + step
    return w - step * h["lr"]


def _moments(w, g, s, h, decoupled):
    g = _decayed(w, g, h, decoupled)
    s["exp_avg"] = _mean(s["exp_avg"], g, h["betas"][0])
    if "exp_avg_sq" in s:
        s["exp_avg_sq"] = _mean(s["exp_avg_sq"], g * g, h["betas"][1])
    return w * (1 - h["lr"] * h["weight_decay"]) if decoupled else w, g


def adam(w, g, s, h, t, decoupled=False):
    w, g = _moments(w, g, s, h, decoupled)
    first, second = (1 - beta**t for beta in h["betas"])
    square = s["exp_avg_sq"]
    if h["amsgrad"]:
        s["max_exp_avg_sq"] = square = s["max_exp_avg_sq"].maximum(square)
    return w - s["exp_avg"] / (square.sqrt() * second**-0.5 + h["eps"]) * (h["lr"] / first)


def adamw(w, g, s, h, t):
    return adam(w, g, s, h, t, decoupled=True)


def adamax(w, g, s, h, t):
    w, g = _moments(w, g, s, h, False)
    s["exp_inf"] = (s["exp_inf"] * h["betas"][1]).maximum(g.abs() + h["eps"])
    return w - s["exp_avg"] / s["exp_inf"] * (h["lr"] / (1 - h["betas"][0] ** t))


def nadam(w, g, s, h, t):
    w, g = _moments(w, g, s, h, h["decoupled_weight_decay"])
    mu, then = (h["betas"][0] * (1 - 0.5 * 0.96 ** (k * h["momentum_decay"])) for k in (t, t + 1))
    s[".product"] = product = s.get(".product", 1.0) * mu
    scale = s["exp_avg_sq"].sqrt() * (1 - h["betas"][1] ** t) ** -0.5 + h["eps"]
    w = w - g / scale * (h["lr"] * (1 - mu) / (1 - product))
    return w - s["exp_avg"] / scale * (h["lr"] * then / (1 - product * then))


def radam(w, g, s, h, t):
    w, g = _moments(w, g, s, h, h["decoupled_weight_decay"])
    beta2, rate = h["betas"][1], h["lr"] / (1 - h["betas"][0] ** t)
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * t * beta2**t / (1 - beta2**t)
    if length <= 5:
        return w - s["exp_avg"] * rate
    r = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return w - s["exp_avg"] / (s["exp_avg_sq"].sqrt() + h["eps"]) * (rate * (r * (1 - beta2**t)) ** 0.5)


def lion(w, g, s, h, t):
    g = -g if h["maximize"] else g
    u = _mean(s["exp_avg"], g, h["betas"][0]).sign()
    s["exp_avg"] = _mean(s["exp_avg"], g, h["betas"][1])
    return w * (1 - h["lr"] * h["weight_decay"]) - u * h["lr"]


def lars(w, g, s, h, t):
    g = -g if h["maximize"] else g
    of_w, of_g = w.norm(), g.norm()
    ratio = of_w * h["trust_coefficient"] / (of_g + of_w * h["weight_decay"] + h["eps"])
    step = (g + w * h["weight_decay"]) * ratio * h["lr"]
    s["momentum_buffer"] = b = s["momentum_buffer"] * h["momentum"] + step
    return w - (b * h["momentum"] + step if h["nesterov"] else b)


def lamb(w, g, s, h, t):
    _moments(w, g, s, {**h, "weight_decay": 0}, False)
    first, second = (1 - beta**t for beta in h["betas"])
    u = s["exp_avg"] * (1 / first) / (s["exp_avg_sq"].sqrt() * second**-0.5 + h["eps"]) + w * h["weight_decay"]
    return w - u * (w.norm() / u.norm() * h["lr"])
