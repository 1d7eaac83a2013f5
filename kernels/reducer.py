"""Runs a reduction on either device: shares it out, lays out its tables and workspace, and launches."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from . import memory, threads
from .buffers import Buffer, Scratch
from .plan import split_cpu, split_cuda
from .reduce import kernel
from .text import lanes_of
from .tree import RADIX, levels


@dataclass(frozen=True)
class Job:
    """Matrices that share their number of rows and their dtype, and what becomes of their sums.

    columns: P of each. matrices: (address, row stride in elements) of each. targets: for each, the addresses that
    the kernel's `finish` reads. hyper, weights: addresses; without weights 0.
    """

    g_dtype: str
    rows: int
    columns: list
    matrices: list
    targets: list
    scale: float
    hyper: int = 0
    weights: int = 0

    @cached_property
    def sums(self):
        """dtype of the sums."""
        return memory.accumulator(self.g_dtype)

    @property
    def scalar(self):
        """scale in the precision of the sums."""
        return np.dtype(self.sums).type(self.scale)


class Reduction:
    """Folds the matrices of a job, and hands the roots to the kernels of `get_kernel`.

    device: "cpu" or "cuda". get_kernel(device, g_dtype, weighted) gives the kernel that `reduce.build` made. It owns
    its tables, partial sums and counters, so it serves one stream, and one thread, at a time.
    """

    def __init__(self, device, xp, get_kernel):
        self.device, self.get_kernel = device, get_kernel
        self.table, self.items, self.scratch = Buffer(xp), Buffer(xp), Scratch(xp)

    def run(self, job):
        """Launch; on CUDA it does not wait."""
        if self.device == "cuda":
            self._launch_cuda(job)
            return
        split = split_cpu(job.columns, job.rows)
        if split.segments > 1:
            partials = self._workspace("partials", [split.segments * p for p in job.columns], job.sums)
            first = replace(job, targets=[(at,) for at in partials], scale=1)
            self._launch_cpu(kernel("cpu", job.g_dtype, bool(job.weights)), split, first)
            matrices = list(zip(partials, job.columns, strict=True))
            job = replace(job, g_dtype=job.sums, rows=split.segments, matrices=matrices, weights=0)
            split = split_cpu(job.columns, job.rows, whole=True)
        self._launch_cpu(self.get_kernel("cpu", job.g_dtype, bool(job.weights)), split, job)

    def _launch_cpu(self, compiled, split, job):
        self._describe(split, job, [(0, 0, 0)] * len(job.columns))
        args = (self.table.address, self.items.address, job.hyper, job.weights, job.rows)
        args += (split.segment, split.tile, job.scalar)
        nbytes = job.rows * sum(job.columns) * memory.itemsize(job.g_dtype)
        scratch_bytes = levels(min(job.rows, split.segment)) * split.tile * memory.itemsize(job.sums)
        threads.run(compiled, args, len(self.items), nbytes, scratch_bytes)

    def _launch_cuda(self, job):
        from .target import BLOCK

        split = split_cuda(job.columns, job.rows, lanes_of({job.g_dtype}), BLOCK)
        partials, counters = [], []
        for p, tiles in zip(job.columns, split.tiles, strict=True):
            # nodes that blocks hand on, level by level, and the counters of those that wait for them
            below = [split.segments]
            while below[-1] > 1:
                below.append(-(-below[-1] // RADIX))
            partials.append(sum(below[:-1]) * p)
            counters.append(sum(below[1:]) * tiles)
        partials = self._workspace("partials", partials, job.sums)
        counters = self._workspace("counters", counters, "int32")
        self._describe(split, job, list(zip(partials, counters, split.tiles, strict=True)))
        compiled = self.get_kernel("cuda", job.g_dtype, bool(job.weights))
        args = (self.table.address, self.items.address, job.hyper, job.weights, job.rows, job.scalar)
        compiled.launch(len(self.items), split.block, *args)

    def _workspace(self, name, sizes, dtype):
        """Addresses of arrays of these sizes, one after the other."""
        ends = np.cumsum([0, *sizes]) * np.dtype(dtype).itemsize
        first = self.scratch.get(name, int(ends[-1]))
        return [first + int(offset) for offset in ends[:-1]]

    def _describe(self, split, job, workspace):
        rows = zip(job.columns, job.matrices, workspace, job.targets, strict=True)
        self.table.set(np.array([(p, *m, *w, *t) for p, m, w, t in rows], np.int64))
        self.items.set(split.items)
