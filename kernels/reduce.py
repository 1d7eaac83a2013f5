"""The sum over the samples of G[B, P] in the tree of tree.py, whatever splits the work.

`table` holds a row of int64 a tensor: P, address of G, G's row stride in elements, addresses of partial sums and
counters, number of column tiles, then the addresses that `$finish` needs; `items` a row a piece of work: tensor,
segment (of `segment` rows, a power of 32), column tile. The root is multiplied once by `scale`. What becomes of it is
the `$finish` text: here it is stored, in fused.py a rule takes it.
"""

from functools import cache

from . import memory, tree
from .limits import Limits
from .text import accessors, lanes_of, module, stem
from .tree import CUDA_THREADS, RADIX, SEGMENT, SHIFT

FIXED = 6  # columns of the table before the addresses that `$finish` needs
LIMITS = Limits(threads=1024)

CPU = """
$tree

$rule

@jit(CACHING, "void(int64, int64, int64, int64, int64, int64, int64, $sums, int64, int64, int64)")
def reduce(table, items, hyper, weights, rows, segment, tile, scale, scratch, first, last):
    for item in range(first, last):
        tensor = load_int64(items, 3 * item)
        piece = load_int64(items, 3 * item + 1)
        column = load_int64(items, 3 * item + 2) * tile
        row = table + tensor * ROW_BYTES
        width = min(tile, load_int64(row, 0) - column)
        start = piece * segment
        stop = min(rows, start + segment)
        depth = 1
        while stop - start > RADIX**depth:
            depth += 1
        for level in range(depth):
            for j in range(width):
                store_sum(scratch, level * tile + j, zero)
        fold(scratch, tile, load_int64(row, 1), load_int64(row, 2), column, width, weights, 0, start, stop)
        root(scratch, scratch, tile, width, depth)
        $addresses
        $hyper
        for j in range(width):
            i = column + j
            total = load_sum(scratch, j) * scale
            $finish
"""

CUDA = """
$rule

@jit("void(int64, int64, int64, int64, int64, $sums)")
def reduce(table, items, hyper, weights, rows, scale):
    item = cuda.blockIdx.x
    tensor = load_int64(items, 3 * item)
    node = load_int64(items, 3 * item + 1)
    tile_index = load_int64(items, 3 * item + 2)
    row = table + tensor * ROW_BYTES
    columns = load_int64(row, 0)
    G_at = load_int64(row, 1)
    stride = load_int64(row, 2)
    partials = load_int64(row, 3)
    counters = load_int64(row, 4)
    tiles = load_int64(row, 5)
    tile = cuda.blockDim.x * LANES
    first_column = tile_index * tile
    threads = cuda.blockDim.x * cuda.blockDim.y
    thread = cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    width = min(tile, columns - first_column)
    sums = cuda.shared.array(SHARED, sum_type)
    is_last = cuda.shared.array(1, np.int32)

    # Level 0: a thread folds one node, LANES columns of it.
    lane = cuda.threadIdx.x * LANES
    n = (node * RADIX + cuda.threadIdx.y) * RADIX
    stop = min(rows, n + RADIX)
    $clear_lanes
    if (G_at | stride * G_SIZE) & 15 == 0 and lane + LANES <= width:
        while n < stop:
            at = n * stride + first_column + lane
            $add_lanes
            n += 1
    else:
        while n < stop:
            at = n * stride + first_column + lane
            $add_guarded
            n += 1
    $share_lanes
    cuda.syncthreads()

    # Level 1, across the block's threads: column j of the tile belongs to one thread from here on.
    count = min(RADIX, ((rows + RADIX - 1) >> SHIFT) - node * RADIX)
    j = thread
    while j < width:
        if count > 1:
            total = zero
            for k in range(count):
                total = total + sums[k * tile + j]
            sums[j] = total
        j += threads

    # Higher levels: the last block to arrive at a node folds what is below it and carries on.
    below = (rows + SEGMENT - 1) >> 2 * SHIFT
    while below > 1:
        j = thread
        while j < width:
            store_sum(partials, node * columns + first_column + j, sums[j])
            j += threads
        cuda.threadfence()
        cuda.syncthreads()
        node >>= SHIFT
        count = min(RADIX, below - node * RADIX)
        counter = counters + 4 * (node * tiles + tile_index)
        if thread == 0:
            is_last[0] = 0
            if add_atomic(counter, np.int32(1)) == count - 1:
                is_last[0] = 1
                add_atomic(counter, np.int32(-count))
        cuda.syncthreads()
        if is_last[0] == 0:
            return
        cuda.threadfence()
        j = thread
        while j < width:
            at = node * RADIX * columns + first_column + j
            total = load_sum(partials, at)
            if count > 1:
                total = zero
                for k in range(count):
                    total = total + load_sum(partials, at + k * columns)
            sums[j] = total
            j += threads
        partials += below * columns * SIZE
        below = (below + RADIX - 1) >> SHIFT
        counters += 4 * below * tiles

    $addresses
    $hyper
    j = thread
    while j < width:
        i = first_column + j
        total = sums[j] * scale
        $finish
        j += threads
"""


def build(family, device, g_dtype, weighted, finish, addresses="", hyper="", rule="", constants=(), used=()):
    """The kernel that folds G of g_dtype and hands each root to the lines of `finish`, as `total`."""
    sums = memory.accumulator(g_dtype)
    # columns of the table: what the reduction needs, then the addresses that `finish` needs
    constants = dict(constants) | {
        "RADIX": RADIX,
        "SIZE": memory.itemsize(sums),
        "ROW_BYTES": 8 * (FIXED + max(1, addresses.count("\n") + 1)),
        "zero": f"np.{sums}(0)",
    }
    parts = {"rule": rule, "sums": sums, "finish": finish, "addresses": addresses, "hyper": hyper}
    if device == "cpu":
        constants |= accessors({g_dtype, *used}, sums)
        return module(family, device, CPU, parts | {"tree": tree.cpu_text(g_dtype, weighted)}, constants).reduce
    lanes = lanes_of({g_dtype})
    constants |= accessors({g_dtype, *used}, sums, lanes) | {
        "LANES": lanes,
        "SHARED": CUDA_THREADS * lanes,
        "SEGMENT": SEGMENT,
        "SHIFT": SHIFT,
        "G_SIZE": memory.itemsize(g_dtype),
        "sum_type": f"np.{sums}",
    }
    weight = "c" if weighted else None
    load_weight = ["c = load_sum(weights, n)"] if weighted else []
    add = [f"s{k} = {tree.sum_text(f'g[{k}]', weight, f's{k}')}" for k in range(lanes)]
    guarded = []
    for k in range(lanes):
        guarded += [
            f"if lane + {k} < width:",
            f"    s{k} = {tree.sum_text(f'load_{g_dtype}(G_at, at + {k})', weight, f's{k}')}",
        ]
    parts |= {
        "clear_lanes": "\n".join(f"s{k} = zero" for k in range(lanes)),
        "add_lanes": "\n".join([f"g = load_{g_dtype}_lanes(G_at, at)", *load_weight, *add]),
        "add_guarded": "\n".join([*load_weight, *guarded]),
        "share_lanes": "\n".join(f"sums[cuda.threadIdx.y * tile + lane + {k}] = s{k}" for k in range(lanes)),
    }
    return module(family, device, CUDA, parts, constants).reduce


@cache
def kernel(device, g_dtype, weighted=False):
    """The kernel that writes the root, times scale, to the table's output."""
    place = "piece * load_int64(row, 0) + i" if device == "cpu" else "i"
    return build(
        stem("reduce", "weighted" if weighted else "", g_dtype),
        device,
        g_dtype,
        weighted,
        finish=f"store_sum(out_at, {place}, total)",
        addresses=f"out_at = load_int64(row, {FIXED})",
    )
