"""What cases are made of: arrays, update rules as gdgpu and its peers have them, torch.compile, plain reading."""

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib import import_module
from math import prod

import numpy as np

import gdgpu
from gdgpu.kernels.backend import threads
from gdgpu.kernels.backend.memory import accumulator, itemsize

FUSED = ("SGD", "Adam", "AdamW", "Adagrad")  # what torch has a fused step of
STATE_BYTES = {"bfloat16": 2, "uint8": 1 + 4 / 256}  # an element; blocks of 256 have a float32 scale


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

    def parameters(self, counts, gradients=None):
        """[w], [g]; gradients: the dtype of these, if it is another."""
        source = Arrays(self.xp, gradients) if gradients else self
        return [self.normal(n) for n in counts], [source.normal(n) for n in counts]

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
    """An update rule as gdgpu and its peers have it.

    ours: gdgpu's name. states: how many arrays of state. hyper: what gdgpu and torch.optim both take. twice: what must
    be read once more, after norms are known: some of "w", "g", "state". storage, gradients: keywords of gdgpu's own,
    and the dtype of the gradients if it is not the parameters'; such a row is compared with gdgpu's usual one.

    theirs: torch's name, if it is another; "" if it has none. nearest: (name, hyper) of an optimizer of torch that
    moves as many bytes, where torch lacks this one. functional: what torch.optim's function takes, for torch.compile.
    kernel: CuPy's: inputs after the gradient, what is updated, the operation; scalars: steps from 1 -> those inputs.
    """

    ours: str
    states: int
    hyper: dict = field(default_factory=dict)
    twice: tuple = ()
    storage: dict = field(default_factory=dict)
    gradients: str | None = None
    theirs: str | None = None
    nearest: tuple | None = None
    functional: dict | None = None
    kernel: tuple | None = None
    scalars: Callable | None = None

    def element_bytes(self, arrays):
        """Bytes that the step of one parameter must move: all is read, and w and the states are written."""
        state = self.states * STATE_BYTES.get(self.storage.get("state_dtype"), arrays.sums_itemsize)
        gradient = itemsize(self.gradients) if self.gradients else arrays.itemsize
        read = {"w": arrays.itemsize, "g": gradient, "state": state}
        return sum(read.values()) + read["w"] + read["state"] + sum(read[name] for name in self.twice)

    def bound(self, params, gradients, samples=False, **how):
        """gdgpu's step, checked once."""
        optimizer = getattr(gdgpu, self.ours)(params, **self.hyper, **self.storage)
        return optimizer.bind_samples(gradients, **how) if samples else optimizer.bind(gradients)

    def usual(self):
        """{name: the same optimizer with the usual state, and with usual gradients too}, where it has others."""
        found = {}
        if self.storage:
            found["usual_state"] = replace(self, storage={})
        if self.gradients:
            found["usual"] = replace(self, storage={}, gradients=None)
        return found

    @property
    def torch(self):
        """(name, hyper) of torch's optimizer; None where there is none, or it would move other bytes."""
        if self.usual() or self.theirs == "":
            return None
        return self.nearest or (self.theirs or self.ours, self.hyper)

    @property
    def torch_label(self):
        """What torch takes part with, in words."""
        if self.torch is None:
            return None
        name, _ = self.torch
        return name + ", fused" * (name in FUSED) + ", the nearest" * bool(self.nearest)

    def torch_step(self, params, gradients):
        """The step, fused where torch has that, and its parameters."""
        import torch

        params = [torch.nn.Parameter(w) for w in params]
        for w, g in zip(params, gradients, strict=True):
            w.grad = g
        name, hyper = self.torch
        fused = {"fused": True} if name in FUSED else {}
        return getattr(torch.optim, name)(params, **fused, **hyper).step, params

    def compiled_step(self, params, gradients, samples=False):
        import torch

        states = [[torch.zeros_like(w) for w in params] for _ in range(self.states)]
        if self.ours == "Adam":  # the largest second moments, which it does not keep, and the step counts
            states += [[], [torch.zeros((), device=w.device) for w in params]]
        return partial(_compiled_step(self, samples), params, gradients, *states)

    def cupy_step(self, arrays, params, gradients):
        """One kernel written by hand for each tensor."""
        import cupy

        inputs, updated, operation = self.kernel
        kernel = cupy.ElementwiseKernel(f"T g, {inputs}", updated, operation, self.ours.lower())
        states = [[arrays.xp.zeros(w.shape, arrays.sums) for w in params] for _ in range(self.states)]
        rows, steps = list(zip(gradients, params, *states, strict=True)), itertools.count(1)

        def step():
            scalars = self.scalars(next(steps))
            for g, *written in rows:
                kernel(g, *scalars, *written)

        return step


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
    name = (optimizer.theirs or optimizer.ours).lower()
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
