"""Runs a reduction on either device: shares it out, lays out its tables and workspace, and launches."""

import numpy as np

from . import memory, threads
from .buffers import Buffer, Scratch
from .plan import split_cpu, split_cuda
from .reduce import kernel
from .text import lanes_of
from .tree import RADIX, levels


class Reduction:
    """Folds matrices that share their number of rows, and hands the roots to the kernels of `get_kernel`.

    device: "cpu" or "cuda". get_kernel(device, g_dtype, weighted) gives the kernel that `build` made. It owns its
    tables, partial sums and counters, so it serves one stream, and one thread, at a time.
    """

    def __init__(self, device, xp, get_kernel):
        self.device, self.get_kernel = device, get_kernel
        self.table, self.items, self.scratch = Buffer(xp), Buffer(xp), Scratch(xp)

    def run(self, g_dtype, rows, columns, matrices, targets, scale, hyper=0, weights=0):
        """columns: P of each matrix. matrices: (address, row stride in elements) of each. targets: for each, the
        addresses that `finish` reads. hyper, weights: addresses; no weights: 0."""
        run = self._run_cpu if self.device == "cpu" else self._run_cuda
        run(g_dtype, rows, columns, matrices, targets, scale, hyper, weights)

    def _run_cpu(self, g_dtype, rows, columns, matrices, targets, scale, hyper, weights):
        split, sums = split_cpu(columns, rows), memory.accumulator(g_dtype)
        if split.segments > 1:
            sizes = [split.segments * p for p in columns]
            partials = self._addresses("partials", sizes, memory.itemsize(sums))
            self._launch_cpu(
                kernel("cpu", g_dtype, bool(weights)),
                split,
                g_dtype,
                rows,
                columns,
                matrices,
                partials,
                1,
                0,
                weights,
            )
            matrices = [(at[0], p) for at, p in zip(partials, columns, strict=True)]
            g_dtype, rows, weights = sums, split.segments, 0
            split = split_cpu(columns, rows, whole=True)
        compiled = self.get_kernel("cpu", g_dtype, bool(weights))
        self._launch_cpu(compiled, split, g_dtype, rows, columns, matrices, targets, scale, hyper, weights)

    def _launch_cpu(self, compiled, split, g_dtype, rows, columns, matrices, targets, scale, hyper, weights):
        sums = memory.accumulator(g_dtype)
        self._describe(split, columns, matrices, [(0, 0, 0)] * len(columns), targets)
        args = (
            self.table.address,
            self.items.address,
            hyper,
            weights,
            rows,
            split.segment,
            split.tile,
            np.dtype(sums).type(scale),
        )
        scratch_bytes = levels(min(rows, split.segment)) * split.tile * memory.itemsize(sums)
        nbytes = rows * sum(columns) * memory.itemsize(g_dtype)
        threads.run(compiled, args, len(self.items), nbytes, scratch_bytes)

    def _run_cuda(self, g_dtype, rows, columns, matrices, targets, scale, hyper, weights):
        from .target import BLOCK

        sums = memory.accumulator(g_dtype)
        split = split_cuda(columns, rows, lanes_of({g_dtype}), BLOCK)
        partial_sizes, counter_sizes = [], []
        for p, tiles in zip(columns, split.tiles, strict=True):
            partials, counters, below = 0, 0, split.segments
            while below > 1:
                partials, below = partials + below * p, -(-below // RADIX)
                counters += below * tiles
            partial_sizes.append(partials)
            counter_sizes.append(counters)
        partials = self._addresses("partials", partial_sizes, memory.itemsize(sums))
        counters = self._addresses("counters", counter_sizes, 4)
        workspace = [(*a, *b, tiles) for a, b, tiles in zip(partials, counters, split.tiles, strict=True)]
        self._describe(split, columns, matrices, workspace, targets)
        compiled = self.get_kernel("cuda", g_dtype, bool(weights))
        scale = np.dtype(sums).type(scale)
        compiled.launch(
            len(self.items), split.block, self.table.address, self.items.address, hyper, weights, rows, scale
        )

    def _addresses(self, name, sizes, itemsize):
        ends = np.cumsum([0, *sizes]) * itemsize
        first = self.scratch.get(name, int(ends[-1]))
        return [(first + int(offset),) for offset in ends[:-1]]

    def _describe(self, split, columns, matrices, workspace, targets):
        rows = zip(columns, matrices, workspace, targets, strict=True)
        self.table.set(np.array([(p, *m, *w, *t) for p, m, w, t in rows], np.int64))
        self.items.set(split.items)
