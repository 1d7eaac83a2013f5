"""The tree of reduce.py for a batch that comes in pieces: one sum a level and column, like the carries of a counter.

Rows may be added in pieces of any size: a node that is not complete waits, and the next piece goes on from
there, so the bits are those of the whole batch.
"""

from collections.abc import Callable
from functools import cache
from types import ModuleType

import numpy as np

from ..backend import memory, threads
from ..backend.geometry import BLOCK
from ..backend.limits import Limits
from ..codegen.module import accessors, lanes_of, module, stem
from . import cpu_tree, tree
from .plan import CPU_TILE
from .tree import levels

LIMITS = Limits(threads=512)
COLLECT_LIMITS = Limits(threads=1024, streams=False)

CPU = """
@jit(CODE, "void(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)")
def add(nodes, G, stride, columns, weights, row, rows, scratch, first, last):
    for item in range(first, last):
        column = item * TILE
        width = min(TILE, columns - column)
        fold(nodes + column * SIZE, columns, G, stride, column, width, weights, row, 0, rows)

@jit(CODE, "void(int64, int64, int64, int64, $sums, int64, int64, int64)")
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
@jit("int64 int64 int64 int64 int64 int64 int64", NAME, CODE)
def add(nodes, G_at, stride, columns, weights, row, rows):
    # A thread adds LANES columns, side by side where memory is aligned, else a block's width apart. Those past the
    # last column read it once more.
    x = np.int64(cuda.threadIdx.x)
    X = np.int64(cuda.blockDim.x)
    first_column = cuda.blockIdx.x * X * LANES
    $weights_array
    width = min(X * LANES, columns - first_column)
    is_vector = (G_at | stride * G_SIZE) & 15 == 0 and width & (LANES - 1) == 0
    start, step, at = x, X, first_column
    if is_vector:
        start, step = x * LANES, np.int64(1)
        at += min(start, width - LANES)
    $columns
    $load_sums
    n = np.int64(0)
    while n < rows:
        if row & (RADIX - 1) == 0 and row > 0:
            # Row `row` begins a new node: what is below it is complete and goes into its parent.
            node, full = nodes, row
            while full & (RADIX - 1) == 0:
                $clear_below
                node += columns * SIZE
                $add_below
                full >>= SHIFT
            $store_sums
            $clear_lanes
        stop = min(rows, n + RADIX - (row & (RADIX - 1)))
        row += stop - n
        $share_weights
        if is_vector:
            $add_lanes
        else:
            $add_columns
    node = nodes
    $store_sums

@jit("int64 int64 int64 int64 $sums", NAME + "_collect", CODE and CODE.with_name(CODE.name + "_collect"))
def collect(nodes, columns, out, depth, scale):
    j = cuda.blockIdx.x * np.int64(cuda.blockDim.x) + cuda.threadIdx.x
    if j < columns:
        total = load_sum(nodes, j)
        for level in range(1, depth):
            total = load_sum(nodes, level * columns + j) + total
        store_sum(out, j, total * scale)
"""

# The weights of the next rows, so that the main loop reads nothing from memory but G.
SHARE_WEIGHTS = """
first = n
cuda.syncthreads()
if x < stop - n:
    c_of[x] = load_sum(weights, n + x)
cuda.syncthreads()
""".strip()


@cache
def kernels(device: str, g_dtype: str, weighted: bool = False) -> ModuleType:
    """The module with the kernels `add` (a piece of G, of g_dtype) and `collect` (the root, times scale)."""
    sums = memory.accumulator(g_dtype)
    constants = tree.constants(sums)
    name = stem("accumulate", "weighted" if weighted else "", g_dtype)
    if device == "cpu":
        constants |= accessors({g_dtype}, sums) | {"TILE": CPU_TILE}
        return module(name, device, CPU, {"sums": sums}, constants, cpu_tree.imports(g_dtype, weighted))
    lanes = lanes_of({g_dtype})
    constants |= accessors({g_dtype}, sums, lanes) | {
        "LANES": lanes,
        "G_SIZE": memory.itemsize(g_dtype),
        "sum_type": f"np.{sums}",
    }
    weight = "c_of[np.uint32({n} - first)]" if weighted else None

    def each(line):
        return "\n".join(line.format(k=k) for k in range(lanes))

    store = "if start + {k} * step == o{k}: store_sum(node, first_column + o{k}, "
    parts = {
        "sums": sums,
        "columns": each("o{k} = np.int32(min(start + {k} * step, width - (LANES - {k} if is_vector else 1)))"),
        "load_sums": each("s{k} = load_sum(nodes, first_column + o{k})"),
        "clear_below": each(store + "zero)"),
        "add_below": each("s{k} = load_sum(node, first_column + o{k}) + s{k}"),
        "clear_lanes": each("s{k} = zero"),
        "weights_array": "c_of = cuda.shared.array(RADIX, sum_type)" if weighted else "",
        "share_weights": SHARE_WEIGHTS if weighted else "",
        "add_lanes": tree.cuda_text(g_dtype, lanes, True, weight),
        "add_columns": tree.cuda_text(g_dtype, lanes, False, weight),
        "store_sums": each(store + "s{k})"),
    }
    return module(name, device, CUDA, parts, constants)


def add(
    device: str, g_dtype: str, nodes: int, G: int, stride: int, columns: int, weights: int, row: int, rows: int
) -> Callable[[], None]:
    """The launch that adds rows of G, rows row, row + 1, … of the batch.

    nodes: levels(row + rows) x columns, zero at first.
    """
    compiled = kernels(device, g_dtype, bool(weights)).add
    args = (nodes, G, stride, columns, weights, row, rows)
    if device == "cpu":
        return threads.Launch(compiled, args, -(-columns // CPU_TILE), rows * columns * memory.itemsize(g_dtype))
    return compiled.prepare(-(-columns // (BLOCK * lanes_of({g_dtype}))), BLOCK, *args)


def collect(device: str, sums: str, nodes: int, columns: int, out: int, rows: int, scale: float) -> None:
    """out <- scale * root of the tree of `rows` rows. The nodes stay as they are."""
    compiled = kernels(device, sums).collect
    args = (nodes, columns, out, levels(rows), np.dtype(sums).type(scale))
    if device == "cpu":
        threads.run(compiled, args, -(-columns // CPU_TILE), columns * memory.itemsize(sums), CPU_TILE * 8)
    else:
        compiled.launch(-(-columns // BLOCK), BLOCK, *args)
