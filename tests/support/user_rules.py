"""Rules as users write them with gdgpu.rule."""

import gdgpu

TENTH = 0.1


@gdgpu.rule(state=("velocity",), momentum=0.9)
def heavy_ball(w, g, velocity, lr, momentum):
    """Momentum, once more."""
    velocity = gdgpu.fma(momentum, velocity, -(lr * g))
    return w + velocity, velocity


def corrected(power, lr, beta):
    power *= beta
    step_size = lr / (1 - power)
    return power, step_size


@gdgpu.rule(state=("mean", "square"), step=corrected, carried={"power": 1.0}, squares=("square",), lr=0.01,
            beta=0.9, eps=1e-3, bounded=False, uphill=False)  # fmt: skip
def debiased(w, g, mean, square, step_size, beta, eps, bounded, uphill):
    if uphill:
        g = -g
    mean = gdgpu.fma(beta, mean, (1 - beta) * g)
    square += TENTH * (g * g - square)
    move = mean / (gdgpu.sqrt(square) + eps)
    if bounded and not uphill:
        move = gdgpu.maximum(gdgpu.minimum(move, 0.5), -0.5)
    return (w - step_size * move if move != 0 else w), mean, square


@gdgpu.rule
def plain(w, g, lr):
    return w - lr * g


@gdgpu.rule(state=("i", "row", "start", "stop", "step", "scale", "limit", "total", "hyper", "key", "items", "rule"))
def awkward(w, g, i, row, start, stop, step, scale, limit, total, hyper, key, items, rule, lr):
    """Its states have names that a kernel might want for itself."""
    i, row, start, stop, step, scale = i + g, row + i, start + row, stop + start, step + stop, scale + step
    limit, total, hyper, key, items, rule = limit - g, total + w, hyper + lr, key + 1, items + key, rule + items
    return w - lr * g, i, row, start, stop, step, scale, limit, total, hyper, key, items, rule
