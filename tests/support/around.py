"""What the tests of what surrounds a step share: every optimizer, snapshots, and gradients prepared in NumPy."""

import numpy as np

import gdgpu
from gdgpu.optimizer import Optimizer
from support.references import dtype_of, joint_squares, samples, sums_of

# Hyperparameters that bring in what the defaults leave out, running products above all.
SETTINGS = {
    "SGD": [{}, {"momentum": 0.9, "dampening": 0.5}, {"momentum": 0.9, "nesterov": True}],
    "Adagrad": [{}, {"lr_decay": 0.1, "initial_accumulator_value": 0.5}],
    "RMSprop": [{}, {"centered": True, "momentum": 0.9}],
    "Adam": [{}, {"amsgrad": True}],
    "RAdam": [{"betas": (0.5, 0.75)}],  # the variance of its step is known soon
}
OPTIMIZERS = {
    "-".join([name, *hyper]): (name, hyper)
    for name, kind in ((name, getattr(gdgpu, name)) for name in gdgpu.__all__)
    if isinstance(kind, type) and issubclass(kind, Optimizer)
    for hyper in SETTINGS.get(name, [{}])
}


def make(label, params, lr=0.1, **common):
    """The optimizer of this label in OPTIMIZERS."""
    name, hyper = OPTIMIZERS[label]
    return getattr(gdgpu, name)(params, lr=lr, **hyper, **common)


def arrays(shapes, dtypes, seed):
    """An array for each pair of a shape and a dtype."""
    pairs = enumerate(zip(shapes, dtypes, strict=True))
    return [samples(shape or (1,), d, seed + 10 * k, wide=False).reshape(shape) for k, (shape, d) in pairs]


def copies(some):
    return [array.copy() for array in some]


def snapshot(optimizer):
    """Everything that a step may change, as bytes: parameters, state as it is held, products, and the count."""
    params = [np.asarray(v.owner).tobytes() for v in optimizer._views]
    state = [[held.held.tobytes() for held in states] for states in optimizer._state]
    products = {s.key: s.carried.tolist() for s in optimizer._scalars.values() if s.rule.carried}
    return params, state, products, optimizer.steps


def prepared(grads, grad_scale=None, clip_value=None, clip_norm=None):
    """The gradients as a rule sees them, operation by operation, in the accumulator's dtype."""
    found = [g.astype(sums_of(g.dtype.name)) for g in grads]
    if grad_scale is not None:
        found = [g / g.dtype.type(np.float32(np.asarray(grad_scale).item())) for g in found]
    if clip_value is not None:
        found = [np.clip(g, -g.dtype.type(clip_value), g.dtype.type(clip_value)) for g in found]
    if clip_norm is not None:
        norm = np.sqrt(joint_squares([g.reshape(-1) for g in found]))
        if not norm <= clip_norm:
            found = [g * (g.dtype.type(clip_norm) / norm) for g in found]
    return [np.asarray(g) for g in found]


def spoiled(grads, value=np.inf):
    """Copies, one element of which is not finite."""
    grads = copies(grads)
    grads[0].reshape(-1)[1] = dtype_of(grads[0].dtype.name).type(value)
    return grads
