"""Sum and spread of the samples of G[B, P] in one read, in the tree of tree.py. Spread: sum of (g - mean)^2.

A node takes in its children from left to right; a leaf is a child of one row, without spread. When n rows with sum s
and spread m join N rows with sum S and spread M, then (Youngs and Cramer 1971, Chan, Golub and LeVeque 1983)

    S' = S + s      d = r s - S'      M' = M + m + c d^2      r = (N + n) / n      c = 1 / (N r)

so that nothing cancels but means of neighbours. `fold` makes nodes of 1024 rows, `merge` a node of up to 32 of them.
What either stores is S * scale and M / divisor: the mean and the variance, at the root.
"""

from functools import cache
from types import ModuleType

import numpy as np

from ..backend import memory, threads
from ..backend.buffers import address_of
from ..backend.geometry import BLOCK, CUDA_SHARED
from ..backend.limits import Limits
from ..codegen.module import accessors, lanes_of, module, stem
from ..reduction.plan import split_cuda
from ..reduction.tree import CUDA_LOADS, RADIX, SEGMENT, SHIFT

CPU_TILE, CPU_NARROWEST = 1 << 12, 1 << 8  # columns whose sums and spreads of two levels stay in the first cache
CPU_UNROLL = 8, 1  # rows that the CPU adds in one pass over them
LIMITS = Limits(threads=768)
RESIDENT = 768  # threads: what bounds the registers
MERGE_LIMITS = Limits(threads=1024, streams=False)  # reads 2 numbers for 1024 of G

JOIN = """
def join(before, rows):
    # r and c for `rows` rows that join `before`; the first ones have nothing to differ from
    ratio = sum_type(before + rows) / sum_type(rows)
    return ratio, (one / (sum_type(before) * ratio) if before > 0 else zero)
""".strip()

CPU = """
@device
$join

@device
def clear(node, tile, width):
    for j in range(width):
        store_sum(node, j, zero)
        store_sum(node, tile + j, zero)

@device
def add_node(node, tile, sums, spreads, width, r, c):
    for j in range(width):
        s = load_sum(node, j)
        m = load_sum(node, tile + j)
        $add_child
        store_sum(node, j, s)
        store_sum(node, tile + j, m)

@device
def finish(node, tile, width, sums, spreads, at, scale, divisor):
    for j in range(width):
        store_sum(sums, at + j, load_sum(node, j) * scale)
        store_sum(spreads, at + j, load_sum(node, tile + j) / divisor)

@jit(CODE, "void(int64, int64, int64, int64, int64, int64, int64, $sums, $sums, int64, int64, int64)")
def fold(G, stride, rows, columns, tile, sums, spreads, scale, divisor, scratch, first, last):
    tiles = (columns + tile - 1) // tile
    leaf = scratch + 2 * tile * SIZE
    for item in range(first, last):
        segment = item // tiles
        column = item % tiles * tile
        width = min(tile, columns - column)
        start = segment * SEGMENT
        clear(scratch, tile, width)
        for low in range(start, min(rows, start + SEGMENT), RADIX):
            high = min(rows, low + RADIX)
            clear(leaf, tile, width)
            n = low
            $add_rows
            r, c = join(low - start, high - low)
            add_node(scratch, tile, leaf, leaf + tile * SIZE, width, r, c)
        finish(scratch, tile, width, sums, spreads, segment * columns + column, scale, divisor)

@jit(CODE, "void(int64, int64, int64, int64, int64, int64, int64, int64, $sums, $sums, int64, int64, int64)")
def merge(below, each, children, rows, columns, tile, sums, spreads, scale, divisor, scratch, first, last):
    tiles = (columns + tile - 1) // tile
    for item in range(first, last):
        node = item // tiles
        column = item % tiles * tile
        width = min(tile, columns - column)
        clear(scratch, tile, width)
        for child in range(node * RADIX, min(children, node * RADIX + RADIX)):
            r, c = join((child - node * RADIX) * each, min(each, rows - child * each))
            at = below + (child * columns + column) * SIZE
            add_node(scratch, tile, at, at + children * columns * SIZE, width, r, c)
        finish(scratch, tile, width, sums, spreads, node * columns + column, scale, divisor)
"""

CUDA = """
@device
$join

@jit("int64 int64 int64 int64 int64 int64 $sums $sums", NAME, CODE, RESIDENT)
def fold(G_at, stride, rows, columns, sums, spreads, scale, divisor):
    x = np.int64(cuda.threadIdx.x)
    y = np.int64(cuda.threadIdx.y)
    X = np.int64(cuda.blockDim.x)
    Y = np.int64(cuda.blockDim.y)
    thread = y * X + x
    tile = X * LANES
    tiles = (columns + tile - 1) // tile
    segment = cuda.blockIdx.x // tiles
    first_column = cuda.blockIdx.x % tiles * tile
    first_row = segment * SEGMENT
    width = min(tile, columns - first_column)
    count = max(min(RADIX, (rows - first_row + RADIX - 1) >> SHIFT), 0)
    node_sums = cuda.shared.array(SHARED, sum_type)
    node_spreads = cuda.shared.array(SHARED, sum_type)
    c_of_row = cuda.shared.array(RADIX, sum_type)
    r_of_node = cuda.shared.array(RADIX, sum_type)
    c_of_node = cuda.shared.array(RADIX, sum_type)
    k = thread
    while k < RADIX:
        r, c_of_row[k] = join(k, 1)
        r_of_node[k], c_of_node[k] = join(k * RADIX, max(min(RADIX, rows - first_row - k * RADIX), 1))
        k += X * Y
    cuda.syncthreads()

    # Level 0: a thread folds LANES columns of a node; child k of the block's node goes into row k of shared memory.
    is_vector = (G_at | stride * G_SIZE) & 15 == 0 and width & (LANES - 1) == 0
    k = y
    while k < count:
        low = first_row + k * RADIX
        n = low
        stop = min(rows, n + RADIX)
        at = n * stride + first_column
        r = zero
        $clear_lanes
        if is_vector:
            if x * LANES < width:
                at += x * LANES
                $add_lanes
                $share_lanes
        else:
            # Neighbouring threads take neighbouring columns; those past the last one read it once more.
            $spread_columns
            $add_columns
            $share_columns
        k += Y
    cuda.syncthreads()

    j = thread
    while j < width:
        s = zero
        m = zero
        for k in range(count):
            r = r_of_node[k]
            c = c_of_node[k]
            $add_shared
        at = segment * columns + first_column + j
        store_sum(sums, at, s * scale)
        store_sum(spreads, at, m / divisor)
        j += X * Y

MERGE_CODE = CODE and CODE.with_name(CODE.name + "_merge")

@jit("int64 int64 int64 int64 int64 int64 int64 $sums $sums", NAME + "_merge", MERGE_CODE)
def merge(below, each, children, rows, columns, sums, spreads, scale, divisor):
    i = cuda.blockIdx.x * np.int64(cuda.blockDim.x) + cuda.threadIdx.x
    node = i // columns
    if node * RADIX < children:
        s = zero
        m = zero
        for child in range(node * RADIX, min(children, node * RADIX + RADIX)):
            r, c = join((child - node * RADIX) * each, min(each, rows - child * each))
            at = child * columns + i % columns
            $add_below
        store_sum(sums, i, s * scale)
        store_sum(spreads, i, m / divisor)
"""


def _add(value, spread="", lane="", r="r", c="c"):
    """The text that takes a child into the node with sum s and spread m."""
    s, m, d = (f"{name}{lane}" for name in "smd")
    return [
        f"{s} = {s} + {value}",
        f"{d} = fma({r}, {value}, -{s})",
        f"{m} = fma({d} * {c}, {d}, {m}{spread and ' + ' + spread})",
    ]


def _child(value, spread):
    """The same for a child that memory holds."""
    return "\n".join([f"v = {value}", *_add("v", spread)])


def _cpu_rows(dtype):
    lines = []
    for unroll in CPU_UNROLL:
        each = range(unroll)
        lines.append(f"while high - n >= {unroll}:")
        lines += [f"    i{k} = (n + {k}) * stride + column" for k in each]
        lines += [f"    r{k}, c{k} = join(n + {k} - low, 1)" for k in each]
        lines += ["    for j in range(width):", "        s = load_sum(leaf, j)", "        m = load_sum(leaf, tile + j)"]
        for k in each:
            lines.append(f"        v = load_{dtype}(G, i{k} + j)")
            lines += [f"        {line}" for line in _add("v", r=f"r{k}", c=f"c{k}")]
        lines += ["        store_sum(leaf, j, s)", "        store_sum(leaf, tile + j, m)", f"    n += {unroll}"]
    return "\n".join(lines)


def _cuda_rows(dtype, lanes, vector):
    """The text that adds rows n … stop-1; lanes lie side by side (vector), or lane k is o_k elements away."""
    lines = []
    for unroll in (CUDA_LOADS[0] if vector else CUDA_LOADS[1] // max(lanes, 4), 1):
        lines.append(f"while n + {unroll} <= stop:")
        for u in range(unroll):
            if vector:
                lines.append(f"    g{u} = load_{dtype}_lanes(G_at, at + {u} * stride)")
            else:
                lines += [f"    g{u}_{k} = load_{dtype}(G_at, at + {u} * stride + o{k})" for k in range(lanes)]
        for u in range(unroll):
            lines += ["    r = r + one", f"    c = c_of_row[np.uint32(n + {u} - low)]"]
            for k in range(lanes):
                lines += [f"    {line}" for line in _add(f"g{u}[{k}]" if vector else f"g{u}_{k}", lane=k)]
        lines += [f"    at += {unroll} * stride", f"    n += {unroll}"]
    return "\n".join(lines)


@cache
def kernels(device: str, g_dtype: str) -> ModuleType:
    """The module with the kernels `fold` (rows of G, of g_dtype) and `merge` (nodes)."""
    sums = memory.accumulator(g_dtype)
    constants = {
        "RADIX": RADIX,
        "SEGMENT": SEGMENT,
        "SIZE": memory.itemsize(sums),
        "zero": f"np.{sums}(0)",
        "one": f"np.{sums}(1)",
        "sum_type": f"np.{sums}",
    }
    parts = {"join": JOIN, "sums": sums}
    if device == "cpu":
        parts |= {"add_child": _child("load_sum(sums, j)", "load_sum(spreads, j)"), "add_rows": _cpu_rows(g_dtype)}
        return module(stem("moments", g_dtype), device, CPU, parts, constants | accessors({g_dtype}, sums))
    lanes = lanes_of({g_dtype})
    constants |= accessors({g_dtype}, sums, lanes) | {
        "LANES": lanes,
        "SHIFT": SHIFT,
        "RESIDENT": RESIDENT,
        "G_SIZE": memory.itemsize(g_dtype),
        "SHARED": CUDA_SHARED // (2 * memory.itemsize(sums)),
    }

    def each(*texts):
        return "\n".join(text.format(k=k) for k in range(lanes) for text in texts)

    side_by_side, spread = "k * tile + x * LANES + {k}] = ", "k * tile + x + {k} * X] = "
    parts |= {
        "clear_lanes": each("s{k} = zero", "m{k} = zero"),
        "add_lanes": _cuda_rows(g_dtype, lanes, True),
        "share_lanes": each(f"node_sums[{side_by_side}s{{k}}", f"node_spreads[{side_by_side}m{{k}}"),
        "spread_columns": each("o{k} = np.int32(min(x + {k} * X, width - 1))"),
        "add_columns": _cuda_rows(g_dtype, lanes, False),
        "share_columns": each(f"node_sums[{spread}s{{k}}", f"node_spreads[{spread}m{{k}}"),
        "add_shared": _child("node_sums[k * tile + j]", "node_spreads[k * tile + j]"),
        "add_below": _child("load_sum(below, at)", "load_sum(below, children * columns + at)"),
    }
    return module(stem("moments", g_dtype), device, CUDA, parts, constants)


def moments(
    device: str, xp: ModuleType, g_dtype: str, rows: int, columns: int, G: int, stride: int, mean: int, variance: int
) -> None:
    """mean and variance, addresses, <- those of the rows of G. The variance of fewer than two rows is NaN."""
    compiled, sums = kernels(device, g_dtype), np.dtype(memory.accumulator(g_dtype))
    kernel, source, nodes, each = compiled.fold, (G, stride), max(1, -(-rows // SEGMENT)), SEGMENT
    prepare, below, above = _cpu_launch if device == "cpu" else _cuda_launch, None, None
    while True:
        target, factors = (mean, variance), (1 / max(rows, 1), max(rows - 1, 0))
        if nodes > 1:
            above = xp.empty((2, nodes, columns), sums)
            target, factors = (address_of(above), address_of(above[1])), (1, 1)
        ends = *target, *map(sums.type, factors)
        launch = prepare(kernel, source, nodes, rows, columns, ends, g_dtype, keeps=(below, above))
        launch()
        if nodes == 1:
            return
        kernel, source, nodes, each = compiled.merge, (target[0], each, nodes), -(-nodes // RADIX), each * RADIX
        below = above


def _cpu_launch(kernel, source, nodes, rows, columns, ends, g_dtype, keeps):
    tile = max(min(-(-columns // (4 * threads.num_threads())), CPU_TILE), CPU_NARROWEST)
    nbytes = rows * columns * memory.itemsize(g_dtype)
    scratch_bytes = 4 * tile * memory.itemsize(memory.accumulator(g_dtype))
    args = (*source, rows, columns, tile, *ends)
    return threads.Launch(kernel, args, nodes * -(-columns // tile), nbytes, scratch_bytes, keeps)


def _cuda_launch(kernel, source, nodes, rows, columns, ends, g_dtype, keeps):
    blocks, block = -(-nodes * columns // BLOCK), BLOCK
    if len(source) == 2:  # the rows of G, not nodes
        lanes = lanes_of({g_dtype})
        sum_bytes = memory.itemsize(memory.accumulator(g_dtype))
        block = split_cuda((columns,), rows, lanes, 2 * sum_bytes, BLOCK).block
        blocks = nodes * -(-columns // (block[0] * lanes))
    return kernel.prepare(blocks, block, *source, rows, columns, *ends, keeps=keeps)
