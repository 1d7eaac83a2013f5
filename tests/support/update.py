"""One update by a rule, on the CPU, without an optimizer around it."""

import numpy as np

from gdgpu.kernels.backend.buffers import Buffer, address_of
from gdgpu.kernels.optimizers import update


def apply(rule, w, g, flags=()):
    """One update of w by a rule without state or hyperparameters."""
    kernel = update.kernel("cpu", rule, flags, (w.dtype.name, g.dtype.name))
    plan = update.plan("cpu", [w.size])
    table = Buffer(np, np.array([(w.size, 0, address_of(w), address_of(g))], np.int64))
    update.launcher("cpu", kernel, table, Buffer(np, plan.items), plan.chunk, w.nbytes)()
    return kernel
