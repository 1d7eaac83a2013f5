"""Runs a reduction on either device: shares it out, lays out its tables and workspace, and launches."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType

import numpy as np

from .backend import memory, threads
from .backend.buffers import Buffer, Counters, Scratch
from .backend.geometry import BLOCK
from .backend.streams import not_recorded, order
from .codegen.module import lanes_of
from .reduction.plan import split_cpu, split_cuda
from .reduction.reduce import kernel
from .reduction.tree import RADIX, levels
from .samples.clip_reduce import Clipped
from .samples.sample_norms import SampleNorms

LAYOUTS = 4  # layouts of different batch sizes: the last batch of an epoch has its own


@dataclass(frozen=True)
class Job:
    """Matrices that share their number of rows and their dtype, and what becomes of their sums.

    columns: P of each. matrices: (address, row stride in elements) of each. targets: for each, the addresses that
    the kernel's `finish` reads. weights: their address, or 0. max_norm: what samples are clipped to, over all matrices
    together; None clips nothing.
    """

    g_dtype: str
    rows: int
    columns: tuple[int, ...]
    matrices: list[tuple[int, int]]
    targets: list[tuple[int, ...]]
    scale: float
    weights: int = 0
    max_norm: float | None = None

    @cached_property
    def sums(self) -> str:
        """dtype of the sums."""
        return memory.accumulator(self.g_dtype)

    @property
    def scalar(self) -> np.floating:
        """scale in the precision of the sums."""
        return np.dtype(self.sums).type(self.scale)


class Reduction:
    """Folds the matrices of a job, and hands the roots to the kernels of `get_kernel`.

    device: "cpu" or "cuda". get_kernel(device, g_dtype, weighted) gives the kernel that `reduce.build` made. It owns
    its tables, partial sums and counters, so it serves one thread at a time, and what is launched must be in order:
    `prepare` sees to that for what runs at once; who keeps the launches that it returns sees to it then.
    """

    def __init__(self, device: str, xp: ModuleType, get_kernel: Callable) -> None:
        self.device, self.xp, self.get_kernel = device, xp, get_kernel
        self.layouts, self.clippers, self.order = {}, {}, order(device)
        self.scratch, self.counters = Scratch(xp, self.order.retire), Counters(xp, self.order.retire)

    def prepare(self, job: Job) -> list[Callable[[], None]]:
        """The launches, good until another job is prepared, which own what they work in; on CUDA they do not wait."""
        not_recorded(self.order.follow(), "take this call before the capture, or bind a step to its arrays")
        return self._plain(job) if job.max_norm is None else self._clipped(job)

    def _plain(self, job):
        return self._cuda(job) if self.device == "cuda" else self._cpu(job)

    def _clipped(self, job):
        """One read: clipped samples become nodes of the tree, a shorter matrix. Or two: norms, then weights."""
        clipped, norms = self._clippers(job.g_dtype, job.columns)
        segment = clipped.segment(job.rows)
        if segment is None:
            (weights,) = self._workspace("factors", [job.rows], job.sums)
            firsts = norms.prepare(job.matrices, job.rows, weights, job.max_norm, job.weights)
            last = self._plain(replace(job, weights=weights, max_norm=None))
        else:
            count = -(-job.rows // segment)
            nodes = self._workspace("nodes", [count * p for p in job.columns], job.sums)
            firsts = [clipped.prepare(job.matrices, job.rows, nodes, job.max_norm, job.weights)]
            matrices = list(zip(nodes, job.columns, strict=True))
            changes = {"g_dtype": job.sums, "rows": count, "matrices": matrices, "weights": 0, "max_norm": None}
            last = self._plain(replace(job, **changes))
        return [*firsts, *last]

    def _clippers(self, *shape):
        """What clips samples of this dtype and these numbers of columns, in one read and in two."""
        if shape not in self.clippers:
            g_dtype, columns = shape
            norms = SampleNorms(self.device, self.xp, [g_dtype] * len(columns), columns, clips=True)
            self.clippers[shape] = Clipped(self.device, self.xp, *shape), norms
        return self.clippers[shape]

    def _cpu(self, job):
        split = split_cpu(job.columns, job.rows)
        if split.segments == 1:
            return [self._fold(self.get_kernel, split, job, "whole")]
        partials = self._workspace("partials", [split.segments * p for p in job.columns], job.sums)
        first = replace(job, targets=[(at,) for at in partials], scale=1)
        matrices = list(zip(partials, job.columns, strict=True))
        second = replace(job, g_dtype=job.sums, rows=split.segments, matrices=matrices, weights=0)
        roots = split_cpu(job.columns, second.rows, whole=True)
        return [
            self._fold(kernel, split, first, "pieces"),
            self._fold(self.get_kernel, roots, second, "roots"),
        ]

    def _fold(self, get_kernel, split, job, stage):
        table, items = self._layout((stage, job.columns, split), split)
        table.set(_table(job, [(0, 0, 0)] * len(job.columns)))
        args = (table.address, items.address, job.weights, job.rows, split.segment, split.tile, job.scalar)
        nbytes = job.rows * sum(job.columns) * memory.itemsize(job.g_dtype)
        scratch_bytes = levels(min(job.rows, split.segment)) * split.tile * memory.itemsize(job.sums)
        compiled = get_kernel("cpu", job.g_dtype, bool(job.weights))
        return threads.Launch(compiled, args, len(items), nbytes, scratch_bytes, keeps=self)

    def _cuda(self, job):
        split = split_cuda(job.columns, job.rows, lanes_of({job.g_dtype}), memory.itemsize(job.sums), BLOCK)
        partials, counters = [], []
        for p, tiles in zip(job.columns, split.tiles, strict=True):
            # nodes that blocks hand on, level by level, and the counters of those that wait for them
            below = [split.segments]
            while below[-1] > 1:
                below.append(-(-below[-1] // RADIX))
            partials.append(sum(below[:-1]) * p)
            counters.append(sum(below[1:]) * tiles)
        partials = self._workspace("partials", partials, job.sums)
        counters = _places(self.counters.get(sum(counters)), counters, 4)
        table, items = self._layout((job.columns, split), split)
        table.set(_table(job, list(zip(partials, counters, split.tiles, strict=True))))
        args = (table.address, items.address, job.weights, job.rows, job.scalar)
        compiled = self.get_kernel("cuda", job.g_dtype, bool(job.weights))
        return [compiled.prepare(len(items), split.block, *args, counters=self.counters, keeps=self)]

    def _layout(self, key, split):
        """Buffers (table, items) of this shape; the items are filled in."""
        if key not in self.layouts:
            if len(self.layouts) >= LAYOUTS:
                del self.layouts[next(iter(self.layouts))]
            self.layouts[key] = Buffer(self.xp), Buffer(self.xp, split.items())
        return self.layouts[key]

    def _workspace(self, name, sizes, dtype):
        """Addresses of arrays of these sizes, one after the other."""
        size = np.dtype(dtype).itemsize
        return _places(self.scratch.get(name, sum(sizes) * size), sizes, size)


def _places(first, sizes, itemsize):
    """The addresses of arrays of these sizes, one after the other from the address `first` on."""
    return [first + int(before) * itemsize for before in np.cumsum([0, *sizes])[:-1]]


def _table(job, workspace):
    rows = zip(job.columns, job.matrices, workspace, job.targets, strict=True)
    return np.array([(p, *m, *w, *t) for p, m, w, t in rows], np.int64)
