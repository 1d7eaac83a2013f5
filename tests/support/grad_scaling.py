"""What surrounds a step: gradients prepared in NumPy, and gradients that are not finite."""

import numpy as np

from support.arrays import copies
from support.references import dtype_of, joint_squares, sums_of


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
