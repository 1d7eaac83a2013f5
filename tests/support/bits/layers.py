"""Cases for what layers do between matrix products; without exp and log, and tanh of float64."""

import itertools

import numpy as np

from gdgpu.kernels.models import layers
from support.bits.arrays import device, special, target, to_device, unaligned
from support.references import samples


def run_layer(name, dtype, squares, rows, columns, move=lambda x: x):
    x = to_device(move(special(rows * columns, dtype, 1)).reshape(rows, columns))
    shape = {"column": columns, "element": (rows, columns), "row": rows, "zero": 0}[layers.KERNELS[name].y]
    y, sums = to_device(move(samples((int(np.prod(shape)),), dtype, 2))), target().xp.empty(rows, dtype)
    layers.launcher(device(), layers.kernel, name, dtype, squares)(x.shape, x, y, sums if squares else 0, columns)
    return [x, *[sums] * squares]


def run_loss(loss, dtype, rows, columns):
    shapes = (rows, columns), (columns,), (rows, columns)
    z, bias, t = (to_device(samples(shape, dtype, k)) for k, shape in enumerate(shapes))
    errors, squares = target().xp.empty((2, rows), dtype)
    numbers = map(np.dtype(dtype).type, (0.3, 1 / 3))
    launch = layers.launcher(device(), layers.loss_end, loss, dtype)
    launch(z.shape, z, bias, t, errors, squares, columns, *numbers)
    return [z, errors, squares]


def run_factors(dtype, rows):
    squares = to_device(abs(samples((4, rows), dtype)))
    norms, factors = target().xp.empty((2, rows), dtype)
    numbers = map(np.dtype(dtype).type, (1.5, 1 / 3))
    layers.launcher(device(), layers.factors, dtype)((rows, 4), squares, norms, factors, 2, rows, *numbers)
    return [norms, factors]


def cases():
    for name, dtype, squares in itertools.product(layers.KERNELS, ("float32", "float64"), (False, True)):
        if (name, dtype) != ("tanh", "float64"):
            for rows, columns in ((5, 12), (3, 131), (1, 260), (2, 14)):
                case = name, dtype, squares, rows, columns
                yield f"layer/{'/'.join(map(str, case))}", run_layer, case
            yield f"layer/{name}/{dtype}/{squares}/unaligned", run_layer, (name, dtype, squares, 5, 12, unaligned)
    for dtype in ("float32", "float64"):
        for loss in ("squared", "huber"):
            yield f"layer/end/{loss}/{dtype}", run_loss, (loss, dtype, 35, 3)
        yield f"layer/factors/{dtype}", run_factors, (dtype, 35)
