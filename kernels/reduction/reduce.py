"""The sum over the samples of G[B, P] in the tree of tree.py, whatever splits the work.

`table` holds a row of int64 a tensor: P, address of G, G's row stride in elements, addresses of partial sums and
counters, number of column tiles, then the addresses that `$finish` needs; `items` a row a piece of work: tensor,
segment (of `segment` rows, a power of 32), column tile. The root is multiplied once by `scale`. What becomes of it is
the `$finish` text: here it is stored, in reduce_update.py a rule takes it.
"""

from collections.abc import Iterable, Mapping
from functools import cache

from ..backend import memory
from ..backend.geometry import CUDA_SHARED
from ..backend.limits import Limits
from ..codegen.module import Compiled, accessors, lanes_of, module, stem
from . import cpu_tree, tree
from .tree import SEGMENT

FIXED = 6  # columns of the table before the addresses that `$finish` needs
LIMITS = Limits(threads=768)
RESIDENT = {"float32": 1024, "float64": 768}  # threads, by the dtype of the sums: what bounds the registers

CPU = """
$rule

@jit(CODE, "void(int64, int64, int64, int64, int64, int64, $sums, int64, int64, int64)")
def reduce(table, items, weights, rows, segment, tile, scale, scratch, first, last):
    for item in range(first, last):
        tensor = load_int64(items, 3 * item)
        piece = load_int64(items, 3 * item + 1)
        column = load_int64(items, 3 * item + 2) * tile
        row = table + tensor * ROW_BYTES
        width = min(tile, load_int64(row, 0) - column)
        start = piece * segment
        stop = min(rows, start + segment)
        $depth
        for j in range(depth * tile):
            store_sum(scratch, j, zero)
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

@jit("int64 int64 int64 int64 $sums", NAME, CODE, RESIDENT)
def reduce(table, items, weights, rows, scale):
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
    x = np.int64(cuda.threadIdx.x)
    y = np.int64(cuda.threadIdx.y)
    X = np.int64(cuda.blockDim.x)
    Y = np.int64(cuda.blockDim.y)
    thread = y * X + x
    threads = X * Y
    tile = X * LANES
    first_column = tile_index * tile
    width = min(tile, columns - first_column)
    first_row = node * SEGMENT
    below = (rows + RADIX - 1) >> SHIFT
    count = min(RADIX, below - node * RADIX)
    sums = cuda.shared.array(SHARED, sum_type)
    arrived = cuda.shared.array(1, np.int32)
    $share_weights

    # Level 0: a thread folds LANES columns of a node; child k of the block's node goes into row k of `sums`.
    is_vector = (G_at | stride * G_SIZE) & 15 == 0 and width & (LANES - 1) == 0
    k = y
    while k < count:
        n = first_row + k * RADIX
        stop = min(rows, n + RADIX)
        at = n * stride + first_column
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

    # Level 1 and up: the block folds the children of its node, and the last block to arrive at a parent goes on.
    below = (below + RADIX - 1) >> SHIFT
    while True:
        cuda.syncthreads()
        j = thread
        while j < width:
            total = zero
            if count == 1:
                total = sums[j]
            else:
                for k in range(count):
                    total = total + sums[k * tile + j]
            sums[j] = total
            j += threads
        if below <= 1:
            break
        j = thread
        while j < width:
            store_sum(partials, node * columns + first_column + j, sums[j])
            j += threads
        cuda.syncthreads()
        node >>= SHIFT
        count = min(RADIX, below - node * RADIX)
        if thread == 0:
            # The barrier and the fence together order the block's stores before the arrival is seen, and the loads
            # below after it; the count goes back to 0 for the next launch.
            counter = counters + 4 * (node * tiles + tile_index)
            fence()
            arrived[0] = add_atomic(counter, np.int32(1))
            if arrived[0] == count - 1:
                add_atomic(counter, np.int32(-count))
            fence()
        cuda.syncthreads()
        if arrived[0] != count - 1:
            return
        k = y
        while k < count:
            at = (node * RADIX + k) * columns + first_column
            j = x
            while j < width:
                sums[k * tile + j] = load_sum(partials, at + j)
                j += X
            k += Y
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

# The weights of the block's rows, so that the main loop reads nothing from memory but G.
SHARE_WEIGHTS = """
c_of = cuda.shared.array(SEGMENT, sum_type)
n = thread
while n < min(rows - first_row, SEGMENT):
    c_of[n] = load_sum(weights, first_row + n)
    n += threads
cuda.syncthreads()
""".strip()


def build(
    family: str,
    device: str,
    g_dtype: str,
    weighted: bool,
    finish: str,
    columns: int,
    addresses: str,
    hyper: str = "",
    rule: str = "",
    constants: Mapping | None = None,
    used: Iterable[str] = (),
) -> Compiled:
    """The kernel that folds G of g_dtype and hands each root to the lines of `finish`, as `total`.

    columns: of the table, beside what the reduction needs: the lines `addresses` read them.
    """
    sums = memory.accumulator(g_dtype)
    constants = dict(constants or {}) | tree.constants(sums)
    constants["ROW_BYTES"] = 8 * (FIXED + columns)
    parts = {"rule": rule, "sums": sums, "finish": finish, "addresses": addresses, "hyper": hyper}
    if device == "cpu":
        constants |= accessors({g_dtype, *used}, sums)
        parts["depth"] = cpu_tree.depth_text("stop - start")
        return module(family, device, CPU, parts, constants, cpu_tree.imports(g_dtype, weighted)).reduce
    lanes = lanes_of({g_dtype})
    constants |= accessors({g_dtype, *used}, sums, lanes) | {
        "LANES": lanes,
        "RESIDENT": RESIDENT[sums],
        "SHARED": CUDA_SHARED // memory.itemsize(sums),
        "SEGMENT": SEGMENT,
        "G_SIZE": memory.itemsize(g_dtype),
        "sum_type": f"np.{sums}",
    }
    weight = "c_of[np.uint32({n} - first_row)]" if weighted else None
    every = range(lanes)
    parts |= {
        "share_weights": SHARE_WEIGHTS if weighted else "",
        "clear_lanes": "\n".join(f"s{k} = zero" for k in every),
        "add_lanes": tree.cuda_text(g_dtype, lanes, True, weight),
        "share_lanes": "\n".join(f"sums[k * tile + x * LANES + {k}] = s{k}" for k in every),
        "spread_columns": "\n".join(f"o{k} = np.int32(min(x + {k} * X, width - 1))" for k in every),
        "add_columns": tree.cuda_text(g_dtype, lanes, False, weight),
        "share_columns": "\n".join(f"sums[k * tile + x + {k} * X] = s{k}" for k in every),
    }
    return module(family, device, CUDA, parts, constants).reduce


@cache
def kernel(device: str, g_dtype: str, weighted: bool = False) -> Compiled:
    """The kernel that writes the root, times scale, to the table's output."""
    place = "piece * load_int64(row, 0) + i" if device == "cpu" else "i"
    return build(
        stem("reduce", "weighted" if weighted else "", g_dtype),
        device,
        g_dtype,
        weighted,
        finish=f"store_sum(out_at, {place}, total)",
        columns=1,
        addresses=f"out_at = load_int64(row, {FIXED})",
    )
