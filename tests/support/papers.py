"""Steps of whole tensors in float64 as papers have them: (w, g, state, t, hyperparameters) -> (w, state)."""

import numpy as np


def lars(w, g, state, t, lr, momentum, weight_decay, trust_coefficient, eps, nesterov, maximize):
    """Algorithm 1, with an eps, and a rate of lr where a norm is 0."""
    g = -g if maximize else g
    w_norm, g_norm = np.linalg.norm(w), np.linalg.norm(g)
    ratio = trust_coefficient * w_norm / (g_norm + weight_decay * w_norm + eps) if w_norm > 0 and g_norm > 0 else 1
    move = lr * ratio * (g + weight_decay * w)
    buffer = momentum * state.get("momentum_buffer", 0) + move
    return w - (momentum * buffer + move if nesterov else buffer), {"momentum_buffer": buffer}


def lamb(w, g, state, t, lr, betas, eps, weight_decay, maximize):
    """Algorithm 2 with phi(x) = x, and a ratio of 1 where a norm is 0."""
    g = -g if maximize else g
    m = betas[0] * state.get("exp_avg", 0) + (1 - betas[0]) * g
    v = betas[1] * state.get("exp_avg_sq", 0) + (1 - betas[1]) * g * g
    u = m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + eps) + weight_decay * w
    w_norm, u_norm = np.linalg.norm(w), np.linalg.norm(u)
    ratio = w_norm / u_norm if w_norm > 0 and u_norm > 0 else 1
    return w - lr * ratio * u, {"exp_avg": m, "exp_avg_sq": v}


def lion(w, g, state, t, lr, betas, weight_decay, maximize):
    """Program 1: the sign of one mean, and another that is kept."""
    g = -g if maximize else g
    m = state.get("exp_avg", 0 * g)
    update = np.sign(betas[0] * m + (1 - betas[0]) * g)
    return w - lr * (update + weight_decay * w), {"exp_avg": betas[1] * m + (1 - betas[1]) * g}


def heavy_ball(w, g, state, t, lr, momentum, nesterov, weight_decay, maximize):
    """v = momentum * v - lr * g; w += v."""
    g = (-g if maximize else g) + weight_decay * w
    v = momentum * state.get("velocity", 0) - lr * g
    return w + (momentum * v - lr * g if nesterov else v), {"velocity": v}
