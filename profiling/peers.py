"""What cases are made of: arrays, the update rules as gdgpu, torch and CuPy have them, torch.compile, plain reading."""

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from math import prod, sqrt

import numpy as np

import gdgpu
from gdgpu.kernels import threads
from gdgpu.kernels.memory import accumulator, itemsize


class Arrays:
    """Arrays of one dtype of a module, numpy or cupy, and torch tensors that share their memory."""

    def __init__(self, xp, dtype):
        self.xp, self.sums = xp, accumulator(dtype)
        self.itemsize, self.sums_itemsize = itemsize(dtype), itemsize(self.sums)
        pool = np.random.default_rng(0).standard_normal(1 << 20, np.float32)
        if dtype == "bfloat16":
            from ml_dtypes import bfloat16 as dtype
        self._pool = xp.asarray(pool.astype(dtype))

    def normal(self, *shape):
        """An allocation of its own that holds normally distributed numbers, the same ones over and over."""
        out = self.xp.empty(prod(shape), self._pool.dtype)
        for start in range(0, out.size, self._pool.size):
            out[start : start + self._pool.size] = self._pool[: out.size - start]
        return out.reshape(shape)

    def parameters(self, counts):
        """[w], [g]."""
        return [self.normal(n) for n in counts], [self.normal(n) for n in counts]

    def tensors(self, counts):
        """The same as torch tensors."""
        return [[self.tensor(a) for a in arrays] for arrays in self.parameters(counts)]

    def tensor(self, array):
        import torch

        if array.dtype.name == "bfloat16":  # NumPy has no DLPack of it
            return torch.from_dlpack(array.view("int16")).view(torch.bfloat16)
        return torch.from_dlpack(array)


@dataclass(frozen=True, eq=False)
class Optimizer:
    """An update rule as gdgpu, torch and CuPy have it. `hyper` is what gdgpu and torch.optim both take."""

    ours: str
    theirs: str
    hyper: dict
    states: int
    functional: dict  # the arguments of torch.optim's function, which is what torch.compile gets
    kernel: tuple  # CuPy's: inputs after the gradient, what is updated, the operation
    scalars: Callable  # steps from 1 -> those inputs

    def bound(self, params, gradients, samples=False):
        """gdgpu's step, checked once."""
        optimizer = getattr(gdgpu, self.ours)(params, **self.hyper)
        return optimizer.bind_samples(gradients) if samples else optimizer.bind(gradients)

    def torch_step(self, params, gradients):
        """The fused step, and its parameters."""
        import torch

        params = [torch.nn.Parameter(w) for w in params]
        for w, g in zip(params, gradients, strict=True):
            w.grad = g
        return getattr(torch.optim, self.theirs)(params, fused=True, **self.hyper).step, params

    def compiled_step(self, params, gradients, samples=False):
        import torch

        states = [[torch.zeros_like(w) for w in params] for _ in range(self.states)]
        if self.theirs == "Adam":  # the largest second moments, which it does not keep, and the step counts
            states += [[], [torch.zeros((), device=w.device) for w in params]]
        return partial(_compiled_step(self, samples), params, gradients, *states)

    def cupy_step(self, arrays, params, gradients):
        """One kernel written by hand for each tensor."""
        import cupy

        inputs, updated, operation = self.kernel
        kernel = cupy.ElementwiseKernel(f"T g, {inputs}", updated, operation, self.theirs.lower())
        states = [[arrays.xp.zeros(w.shape, arrays.sums) for w in params] for _ in range(self.states)]
        rows, steps = list(zip(gradients, params, *states, strict=True)), itertools.count(1)

        def step():
            scalars = self.scalars(next(steps))
            for g, *written in rows:
                kernel(g, *scalars, *written)

        return step


MOMENTUM = Optimizer(
    ours="Momentum",
    theirs="SGD",
    hyper={"lr": 1e-3, "momentum": 0.9},
    states=1,
    functional={"lr": 1e-3, "momentum": 0.9, "dampening": 0.0, "nesterov": False, "weight_decay": 0.0},
    kernel=("A lr, A momentum", "T w, A v", "v = momentum * v - lr * g; w = w + v"),
    scalars=lambda step: (1e-3, 0.9),
)
ADAM = Optimizer(
    ours="Adam",
    theirs="Adam",
    hyper={"lr": 1e-3},
    states=2,
    functional={"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
    | {"amsgrad": False, "capturable": True},
    kernel=(
        "A rate, A root",
        "T w, A m, A v",
        "m += A(0.1) * (g - m); v += A(0.001) * (A(g) * g - v); w = w - rate * m / (sqrt(v) * root + A(1e-8))",
    ),
    scalars=lambda step: (1e-3 / (1 - 0.9**step), 1 / sqrt(1 - 0.999**step)),
)


def forget_compiled():
    """Let the next case compile afresh: torch keeps eight versions of a function, and then gives up."""
    if "torch" in sys.modules:
        sys.modules["torch"].compiler.reset()


def _compile(function):
    """torch.compile for exactly these shapes; an error, not silence, where it would fall back to eager."""
    import torch

    return torch.compile(function, dynamic=False, fullgraph=True)


@cache
def _compiled_step(optimizer, samples):
    """One compilation for all sets of arrays."""
    name = optimizer.theirs.lower()
    function = getattr(import_module(f"torch.optim.{name}"), name)

    def step(params, gradients, *states):
        if samples:
            gradients = [gradients.mean(0)]
        function(params, gradients, *states, foreach=True, maximize=False, **optimizer.functional)

    return _compile(step)


@cache
def compiled_sum():
    return _compile(lambda tensor, dtype: tensor.sum(0, dtype=dtype))


def reader(G):
    """Adds up the memory of G in whatever order is fastest: no reduction can be faster than that."""
    values = G.reshape(-1).view(np.uint8)[: G.nbytes // 4 * 4].view(np.float32)
    items = -(-values.size // 65536)
    return partial(threads.run, _add_up(), (values, np.empty(items, np.float32)), items, G.nbytes)


@cache
def _add_up():
    from numba import njit

    @njit(nogil=True, fastmath=True)
    def add_up(values, sums, scratch, first, last):
        for k in range(first, last):
            sums[k] = values[k * 65536 : (k + 1) * 65536].sum()

    return add_up
