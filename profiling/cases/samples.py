"""Cases of the gradients of single samples: a matrix (samples, elements) is read, once where an algorithm allows it."""

from functools import partial

import numpy as np
from peers import reader

import gdgpu

CUT = 0.1  # of the samples at each end of a trimmed mean


def norms(arrays, shape):
    """The norm of each row: reads the matrix, writes a number a row."""
    G = arrays.normal(*shape)

    def numpy():
        return lambda: np.sqrt(np.einsum("ij,ij->i", G, G))

    def torch():
        import torch

        return partial(torch.linalg.vector_norm, arrays.tensor(G), dim=1)

    return G.nbytes + shape[0] * arrays.sums_itemsize, {
        "gdgpu": lambda: partial(gdgpu.sample_norms, G),
        "numpy": numpy,
        "torch": torch,
        "cupy": lambda: partial(arrays.xp.linalg.norm, G, axis=1),
        "read": lambda: reader(G),
    }


def statistics(arrays, shape):
    """Mean, variance and noise scale: reads the matrix, writes two rows and reads them once more.

    Peers leave the noise scale out.
    """
    G = arrays.normal(*shape)

    def plain():
        return lambda: (G.mean(axis=0), G.var(axis=0, ddof=1))

    def torch():
        import torch

        tensor = arrays.tensor(G)
        return lambda: torch.var_mean(tensor, dim=0)[::-1]

    return G.nbytes + 4 * shape[1] * arrays.sums_itemsize, {
        "gdgpu": lambda: lambda: gdgpu.sample_statistics(G)[:2],
        "numpy": plain,
        "torch": torch,
        "cupy": plain,
        "read": lambda: reader(G),
    }


def robust(arrays, shape, trimmed):
    """The median, or the mean without a tenth at each end, of each column: the matrix read once, a row written."""
    G, cut = arrays.normal(*shape), int(CUT * shape[0])

    def plain(xp=arrays.xp):
        if not trimmed:
            return partial(xp.median, G, axis=0)
        kth = cut, shape[0] - cut - 1
        return lambda: xp.partition(G, kth, axis=0)[cut : shape[0] - cut].mean(axis=0)

    def torch(tensor=None):
        tensor = arrays.tensor(G)
        if not trimmed:
            return partial(tensor.quantile, 0.5, dim=0)
        return lambda: tensor.sort(dim=0).values[cut : shape[0] - cut].mean(0)

    ours = partial(gdgpu.trimmed_mean_samples, G, CUT) if trimmed else partial(gdgpu.median_samples, G)
    return G.nbytes + shape[1] * arrays.sums_itemsize, {
        "gdgpu": lambda: ours,
        "numpy": plain,
        "torch": torch,
        "cupy": plain,
        "read": lambda: reader(G),
    }


def clip(arrays, shape, optimizer):
    """Samples clipped to the root of their length, about half of them; their mean; a step with it.

    Peers make norms, then factors, then the mean of the products, then the step: `torch` as it reads, `torch_matvec`
    with a product of factors and matrix in place of a clipped copy.
    """
    G, (rows, columns) = arrays.normal(*shape), shape
    max_norm = columns**0.5

    def torch_step(mean):
        import torch

        step, (w,) = optimizer.torch_step(*arrays.tensors([columns]))
        tensor = arrays.tensor(G)

        def run():
            w.grad = mean(tensor, (max_norm / torch.linalg.vector_norm(tensor, dim=1)).clamp(max=1))
            step()

        return run

    def cupy():
        xp = arrays.xp
        params, gradients = arrays.parameters([columns])
        step = optimizer.cupy_step(arrays, params, gradients)

        def run():
            factors = xp.minimum(max_norm / xp.linalg.norm(G, axis=1), 1)
            (G * factors[:, None]).mean(axis=0, out=gradients[0])
            step()

        return run

    nbytes = G.nbytes + columns * 2 * (arrays.itemsize + optimizer.states * arrays.sums_itemsize)
    return nbytes, {
        "gdgpu": lambda: optimizer.bound(arrays.normal(columns), G, samples=True, max_norm=max_norm),
        "torch": lambda: torch_step(lambda tensor, factors: (tensor * factors[:, None]).mean(0)),
        "torch_matvec": lambda: torch_step(lambda tensor, factors: factors @ tensor / rows),
        "cupy": cupy,
        "read": lambda: reader(G),
    }
