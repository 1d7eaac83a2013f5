"""The sum over the samples of G[B, P], in one fixed tree, whatever splits the work.

Level-0 node k is the left fold, from +0, of rows 32k … 32k+31; a node of the next level is the left fold of
32 nodes below it; up to one node, the root. A missing row is skipped, and a node with one child is that child.
With weights a leaf is acc = fma(c_n, G[n, j], acc). The root is multiplied once by `scale`.

`table` holds a row of int64 a tensor: P, address of G, G's row stride in elements, address of the output, …;
`items` a row a piece of work: tensor, segment (of `segment` rows, a power of 32), column tile.
What becomes of a root is the `$finish` text: here it is stored, in fused.py a rule takes it.
"""

from functools import lru_cache

import numpy as np

from . import memory, threads
from .buffers import Buffer, Scratch
from .plan import CUDA_THREADS, RADIX, SEGMENT, levels, split_cpu, split_cuda
from .text import accessors, lanes_of, module, stem

UNROLL = (32, 4, 1)  # rows added to the sums in one pass over them
FIXED = 6  # columns of the table before the addresses that `$finish` needs: P, G, stride, partials, counters, tiles


CPU_TREE = """
@jit(CACHING)
def carry(nodes, pitch, width, row):
    # Row `row` begins a new node: what is below it is complete and goes into its parent.
    while row % RADIX == 0:
        above = nodes + pitch * SIZE
        for j in range(width):
            store_sum(above, j, load_sum(above, j) + load_sum(nodes, j))
            store_sum(nodes, j, zero)
        row //= RADIX
        nodes = above

@jit(CACHING)
def fold(nodes, pitch, G, stride, column, width, weights, row, first, last):
    # Rows first … last-1 of G, which are rows row, row + 1, … of the tree.
    while first < last:
        if row % RADIX == 0 and row > 0:
            carry(nodes, pitch, width, row)
        stop = min(last, first + RADIX - row % RADIX)
        row += stop - first
        $add_rows

@jit(CACHING)
def root(sums, nodes, pitch, width, depth):
    # sums: a copy of level 0. It becomes the root, as the last node of every level goes into the one above.
    for level in range(1, depth):
        above = nodes + level * pitch * SIZE
        for j in range(width):
            store_sum(sums, j, load_sum(above, j) + load_sum(sums, j))
"""

CPU = (
    CPU_TREE
    + """
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
)

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


def sum_text(g, weight=None, before="{}"):
    """Text that adds a value, or its product with a weight, to a sum."""
    return f"{before} + {g}" if weight is None else f"fma({weight}, {g}, {before})"


def add_rows(dtype, weighted):
    """Lines that add rows first … stop-1 to the sums, several rows in one pass over them."""
    lines = []
    for unroll in UNROLL:
        lines.append(f"while stop - first >= {unroll}:")
        lines.append("    i0 = first * stride + column")
        lines += [f"    i{k} = i{k - 1} + stride" for k in range(1, unroll)]
        if weighted:
            lines += [f"    c{k} = load_sum(weights, first + {k})" for k in range(unroll)]
        total = "load_sum(nodes, j)"
        for k in range(unroll):
            total = sum_text(f"load_{dtype}(G, i{k} + j)", f"c{k}" if weighted else None, total)
        lines += [
            "    for j in range(width):",
            f"        store_sum(nodes, j, {total})",
            f"    first += {unroll}",
        ]
    return "\n".join(lines)


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
        return module(
            family, device, CPU, parts | {"add_rows": add_rows(g_dtype, weighted)}, constants
        ).reduce
    lanes = lanes_of({g_dtype})
    constants |= accessors({g_dtype, *used}, sums, lanes) | {
        "LANES": lanes,
        "SHARED": CUDA_THREADS * lanes,
        "SEGMENT": SEGMENT,
        "SHIFT": RADIX.bit_length() - 1,
        "G_SIZE": memory.itemsize(g_dtype),
        "sum_type": f"np.{sums}",
    }
    weight = "c" if weighted else None
    load_weight = ["c = load_sum(weights, n)"] if weighted else []
    add = [f"s{k} = {sum_text(f'g[{k}]', weight, f's{k}')}" for k in range(lanes)]
    guarded = []
    for k in range(lanes):
        guarded += [
            f"if lane + {k} < width:",
            f"    s{k} = {sum_text(f'load_{g_dtype}(G_at, at + {k})', weight, f's{k}')}",
        ]
    parts |= {
        "clear_lanes": "\n".join(f"s{k} = zero" for k in range(lanes)),
        "add_lanes": "\n".join([f"g = load_{g_dtype}_lanes(G_at, at)", *load_weight, *add]),
        "add_guarded": "\n".join([*load_weight, *guarded]),
        "share_lanes": "\n".join(f"sums[cuda.threadIdx.y * tile + lane + {k}] = s{k}" for k in range(lanes)),
    }
    return module(family, device, CUDA, parts, constants).reduce


@lru_cache(maxsize=None)
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
