"""The tree of reduce.py for a batch that comes in pieces: one sum a level and column, like the carries of a counter.

Rows may be added in pieces of any size: a node that is not complete waits, and the next piece goes on from
there, so the bits are those of the whole batch.
"""

from functools import cache

import numpy as np

from . import memory, threads, tree
from .limits import Limits
from .plan import CPU_TILE
from .text import accessors, module, stem
from .tree import RADIX, SHIFT, levels

LIMITS = Limits(threads=1024)
COLLECT_LIMITS = Limits(threads=1024, streams=False)

CPU = """
$tree

@jit(CACHING, "void(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)")
def add(nodes, G, stride, columns, weights, row, rows, scratch, first, last):
    for item in range(first, last):
        column = item * TILE
        width = min(TILE, columns - column)
        fold(nodes + column * SIZE, columns, G, stride, column, width, weights, row, 0, rows)

@jit(CACHING, "void(int64, int64, int64, int64, $sums, int64, int64, int64)")
def collect(nodes, columns, out, depth, scale, scratch, first, last):
    for item in range(first, last):
        column = item * TILE
        width = min(TILE, columns - column)
        for j in range(width):
            store_sum(scratch, j, load_sum(nodes, column + j))
        root(scratch, nodes + column * SIZE, columns, width, depth)
        for j in range(width):
            store_sum(out, column + j, load_sum(scratch, j) * scale)
"""

CUDA = """
@jit("void(int64, int64, int64, int64, int64, int64, int64)")
def add(nodes, G, stride, columns, weights, row, rows):
    j = cuda.blockIdx.x * np.int64(cuda.blockDim.x) + cuda.threadIdx.x
    if j < columns:
        total = load_sum(nodes, j)
        for n in range(rows):
            if row & (RADIX - 1) == 0 and row > 0:
                # Row `row` begins a new node: what is below it is complete and goes into its parent.
                at, full = nodes, row
                while full & (RADIX - 1) == 0:
                    store_sum(at, j, zero)
                    at += columns * SIZE
                    total = load_sum(at, j) + total
                    full >>= SHIFT
                store_sum(at, j, total)
                total = zero
            total = $add
            row += 1
        store_sum(nodes, j, total)

@jit("void(int64, int64, int64, int64, $sums)")
def collect(nodes, columns, out, depth, scale):
    j = cuda.blockIdx.x * np.int64(cuda.blockDim.x) + cuda.threadIdx.x
    if j < columns:
        total = load_sum(nodes, j)
        for level in range(1, depth):
            total = load_sum(nodes, level * columns + j) + total
        store_sum(out, j, total * scale)
"""


@cache
def kernels(device, g_dtype, weighted=False):
    """The module with the kernels `add` (a piece of G, of g_dtype) and `collect` (the root, times scale)."""
    sums = memory.accumulator(g_dtype)
    constants = {
        "RADIX": RADIX,
        "SHIFT": SHIFT,
        "SIZE": memory.itemsize(sums),
        "zero": f"np.{sums}(0)",
    } | accessors({g_dtype}, sums)
    name = stem("accumulate", "weighted" if weighted else "", g_dtype)
    if device == "cpu":
        parts = {"sums": sums, "tree": tree.cpu_text(g_dtype, weighted)}
        return module(name, device, CPU, parts, constants | {"TILE": CPU_TILE})
    weight = "load_sum(weights, n)" if weighted else None
    parts = {"sums": sums, "add": tree.sum_text(f"load_{g_dtype}(G, n * stride + j)", weight, "total")}
    return module(name, device, CUDA, parts, constants)


def add(device, g_dtype, nodes, G, stride, columns, weights, row, rows):
    """Add rows of G, rows row, row + 1, … of the batch. nodes: levels(row + rows) x columns, zero at first."""
    compiled = kernels(device, g_dtype, bool(weights)).add
    args = (nodes, G, stride, columns, weights, row, rows)
    _launch(device, compiled, args, columns, rows * columns * memory.itemsize(g_dtype))


def collect(device, sums, nodes, columns, out, rows, scale):
    """out <- scale * root of the tree of `rows` rows. The nodes stay as they are."""
    compiled = kernels(device, sums).collect
    args = (nodes, columns, out, levels(rows), np.dtype(sums).type(scale))
    _launch(device, compiled, args, columns, columns * memory.itemsize(sums))


def _launch(device, compiled, args, columns, nbytes):
    if device == "cpu":
        threads.run(compiled, args, -(-columns // CPU_TILE), nbytes, CPU_TILE * 8)
    else:
        from .target import BLOCK

        compiled.launch(-(-columns // BLOCK), BLOCK, *args)
