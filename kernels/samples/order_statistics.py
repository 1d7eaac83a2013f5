"""Order statistics of the samples of G[B, P], coordinate by coordinate: medians and trimmed means.

The value of a rank is found bit by bit from the top: the largest float that enough values reach. Values are compared
as floats, so the two zeros are one, and a NaN reaches nothing, not even -inf. Counts do not depend on an order, so
devices share out the rows as they like. What lies between the lowest and the highest value that stay is added up in
the tree of tree.py, where a row outside is skipped, and then those two, each times how often it stays.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from ..backend import memory, threads
from ..backend.geometry import BLOCK, CUDA_THREADS, SIMULATED
from ..backend.limits import Limits
from ..codegen.module import accessors, fill, module, stem
from ..reduction import cpu_tree, tree
from ..reduction.tree import RADIX, SEGMENT, levels

CPU_CACHE = 1 << 19  # bytes of a tile, which stays in the second cache while its bits are found
CPU_COLUMNS = 1 << 6, 1 << 10  # of a tile, at least and at most
CPU_UNROLL = 16, 1  # rows that the CPU counts in one pass over the columns
CUDA_RESIDENT = 35 << 10  # bytes in which a block holds its columns; if they do not fit, they are read for every bit
CUDA_COLUMNS = 32, 16, 8  # of a block; 8 are still a sector of memory
# A number at a time, most of them from shared memory or from the second cache.
LIMITS = Limits(threads=1024, streams=False)
BITS = {"float16": 19, "bfloat16": 16, "float32": 32, "float64": 64}  # from the top, that differ; wider ones are +0

# Keys are whole numbers in the order of the floats; below that of -inf they all stand for it.
KEYS = """
@device
def float_of(key):
    bits = max(key, LOWEST)
    if bits < 0:
        bits = bits ^ LARGEST
    return $as_float

@device
def after(v):
    # The next larger float; v is not -0.
    bits = $as_int
    return float_of((bits if bits >= 0 else bits ^ LARGEST) + 1)
""".strip()

CPU = """
$keys

@device
def reach(values, tile, rows, width, floats, counts):
    # counts <- how many values of each column are >= its float.
    for j in range(width):
        store_int64(counts, j, 0)
    n = 0
    $count_rows

@device
def least(values, tile, rows, width, floats, found):
    # found <- the least value of each column that is >= its float.
    for j in range(width):
        store_sum(found, j, infinity)
    for n in range(rows):
        for j in range(width):
            v = load_sum(values, n * tile + j)
            before = load_sum(found, j)
            store_sum(found, j, v if v >= load_sum(floats, j) and v < before else before)

@device
def select(values, tile, rows, width, rank, keys, counts, reached, floats, found):
    # found <- the value of this rank of each column, a zero as +0.
    for j in range(width):
        store_int64(keys, j, SMALLEST)
        store_int64(reached, j, -1)
    for bit in range(TOP, TOP - BITS, -1):
        for j in range(width):
            key = load_int64(keys, j)
            store_sum(floats, j, float_of(key + (np.int64(1) << bit) if bit < TOP else 0))
        reach(values, tile, rows, width, floats, counts)
        left = 0
        for j in range(width):
            count = load_int64(counts, j)
            if count >= rows - rank:
                key = load_int64(keys, j)
                store_int64(keys, j, key + (np.int64(1) << bit) if bit < TOP else 0)
                store_int64(reached, j, count)
            left += load_int64(reached, j) != rows - rank
        if left == 0:  # no other value lies between
            break
    for j in range(width):
        store_sum(floats, j, float_of(load_int64(keys, j)))
    least(values, tile, rows, width, floats, found)
    for j in range(width):
        store_sum(found, j, load_sum(found, j) + zero)

@jit(CODE, "void(int64, int64, int64, int64, int64, int64, int64, $sums, int64, int64, int64, int64)")
def between(G, stride, rows, columns, tile, low, high, scale, out, scratch, first, last):
    keys = scratch
    counts = keys + 8 * tile
    reached = counts + 8 * tile
    valid = reached + 8 * tile
    floats = valid + 8 * tile
    lows = floats + tile * SIZE
    highs = lows + tile * SIZE
    values = highs + tile * SIZE
    nodes = values + rows * tile * SIZE
    for item in range(first, last):
        column = item * tile
        width = min(tile, columns - column)
        for n in range(rows):
            for j in range(width):
                store_sum(values, n * tile + j, load_G(G, n * stride + column + j))
        for j in range(width):
            store_sum(floats, j, -infinity)
        reach(values, tile, rows, width, floats, valid)
        select(values, tile, rows, width, low, keys, counts, reached, floats, lows)
        $finish
"""

CPU_MEDIAN = """
if high > low:
    for j in range(width):
        store_sum(floats, j, after(load_sum(lows, j)))
    reach(values, tile, rows, width, floats, counts)
    least(values, tile, rows, width, floats, highs)
for j in range(width):
    v = load_sum(lows, j)
    if high > low:
        v = (v + (v if rows - load_int64(counts, j) > high else load_sum(highs, j))) * scale
    store_sum(out, column + j, v if load_int64(valid, j) == rows else nan)
""".strip()

CPU_TRIMMED = """
select(values, tile, rows, width, high, keys, counts, reached, floats, highs)
reach(values, tile, rows, width, highs, counts)
for j in range(width):
    store_sum(floats, j, after(load_sum(lows, j)))
reach(values, tile, rows, width, floats, reached)
$depth
for level in range(depth):
    for j in range(width):
        store_sum(nodes, level * tile + j, zero)
for n in range(rows):
    for j in range(width):
        v = load_sum(values, n * tile + j)
        stays = v > load_sum(lows, j) and v < load_sum(highs, j)
        store_sum(values, n * tile + j, v if stays else zero)
fold(nodes, tile, values, tile, 0, width, 0, 0, 0, rows)
root(nodes, nodes, tile, width, depth)
for j in range(width):
    total = load_sum(nodes, j)
    lowest = load_sum(lows, j)
    highest = load_sum(highs, j)
    above = load_int64(reached, j)
    top = load_int64(counts, j)
    $mean
    store_sum(out, column + j, v if load_int64(valid, j) == rows else nan)
""".strip()

# above: how many values are > the lowest that stays; top: how many are >= the highest.
MEAN = """
v = lowest
if lowest < highest:
    total = fma(sum_type(high + 1 - rows + top), highest, total)
    v = fma(sum_type(rows - above - low), lowest, total) * scale
""".strip()

CUDA = """
$keys

@device
def reach(source, stride, rows, v, shared, x, y, X, Y):
    # How many values of the column are >= v; every thread of the column is told.
    count = np.int32(0)
    n = y
    while n < rows:
        count = np.int32(count + np.int32($value >= v))
        n += Y
    cuda.syncthreads()
    shared[y * X + x] = count
    cuda.syncthreads()
    total = np.int64(0)
    for k in range(Y):
        total += np.int64(shared[k * X + x])
    return total

@device
def least(source, stride, rows, v, shared, x, y, X, Y):
    # The least value of the column that is >= v.
    found = infinity
    n = y
    while n < rows:
        candidate = $value
        if candidate >= v and candidate < found:
            found = candidate
        n += Y
    cuda.syncthreads()
    shared[y * X + x] = found
    cuda.syncthreads()
    for k in range(Y):
        found = minimum(found, shared[k * X + x])
    return found

@device
def select(source, stride, rows, rank, counts, shared, x, y, X, Y):
    # The value of this rank of the column, a zero as +0.
    key = np.int64(SMALLEST)
    for bit in range(TOP, TOP - BITS, -1):
        tried = key + (np.int64(1) << np.int64(bit)) if bit < TOP else np.int64(0)
        if reach(source, stride, rows, float_of(tried), counts, x, y, X, Y) >= rows - rank:
            key = tried
    return least(source, stride, rows, float_of(key), shared, x, y, X, Y) + zero

@jit("int64 int64 int64 int64 int64 int64 $sums int64", NAME, CODE)
def between(G_at, stride, rows, columns, low, high, scale, out):
    x = np.int64(cuda.threadIdx.x)
    y = np.int64(cuda.threadIdx.y)
    X = np.int64(cuda.blockDim.x)
    Y = np.int64(cuda.blockDim.y)
    first_column = cuda.blockIdx.x * X
    column = min(first_column + x, columns - 1)  # those past the last one read it once more
    counts = cuda.shared.array(THREADS, np.int32)
    shared = cuda.shared.array(THREADS, sum_type)
    $source
    valid = reach(source, stride, rows, -infinity, counts, x, y, X, Y)
    lowest = select(source, stride, rows, low, counts, shared, x, y, X, Y)
    $finish
    if y == 0 and first_column + x < columns:
        store_sum(out, column, v if valid == rows else nan)
"""

CUDA_HOLD = """
source = cuda.shared.array(VALUES, sum_type)
n = y
while n < rows:
    source[n * X + x] = load_G(G_at, n * stride + column)
    n += Y
cuda.syncthreads()
""".strip()

CUDA_MEDIAN = """
v = lowest
if high > low:
    above = reach(source, stride, rows, after(lowest), counts, x, y, X, Y)
    highest = least(source, stride, rows, after(lowest), shared, x, y, X, Y)
    v = (lowest + (lowest if rows - above > high else highest)) * scale
""".strip()

CUDA_TRIMMED = """
highest = select(source, stride, rows, high, counts, shared, x, y, X, Y)
above = reach(source, stride, rows, after(lowest), counts, x, y, X, Y)
top = reach(source, stride, rows, highest, counts, x, y, X, Y)
nodes = cuda.shared.array(NODES, sum_type)
sums = cuda.shared.array(LEVELS, sum_type)
if y == 0:
    for level in range(DEPTH):
        sums[level * X + x] = zero
segment = np.int64(0)
while segment * SEGMENT < rows:
    count = min(RADIX, (rows - segment * SEGMENT + RADIX - 1) >> SHIFT)
    k = y
    while k < count:
        n = segment * SEGMENT + k * RADIX
        stop = min(rows, n + RADIX)
        total = zero
        while n < stop:
            v = $value
            total = total + (v if v > lowest and v < highest else zero)
            n += 1
        nodes[k * X + x] = total
        k += Y
    cuda.syncthreads()
    if y == 0:
        # As in tree.py: what is below a new node is complete and goes into its parent.
        full = segment
        level = x
        while full > 0 and full & (RADIX - 1) == 0:
            sums[level + X] = sums[level + X] + sums[level]
            sums[level] = zero
            level += X
            full >>= SHIFT
        total = zero
        for k in range(count):
            total = total + nodes[k * X + x]
        sums[x] = sums[x] + total
    cuda.syncthreads()
    segment += 1
total = sums[x]
for level in range(1, DEPTH):
    total = sums[level * X + x] + total
$mean
""".strip()
DEPTH = 5  # levels above segments: of 2^35 rows
FAMILIES = {"median": (CPU_MEDIAN, CUDA_MEDIAN), "trimmed_mean": (CPU_TRIMMED, CUDA_TRIMMED)}


def _count_rows():
    lines = []
    for unroll in CPU_UNROLL:
        each = range(unroll)
        lines += [f"while rows - n >= {unroll}:", *(f"    i{k} = (n + {k}) * tile" for k in each)]
        lines += ["    for j in range(width):", "        v = load_sum(floats, j)", "        count = int_type(0)"]
        lines += [f"        count = int_type(count + int_type(load_sum(values, i{k} + j) >= v))" for k in each]
        lines += ["        store_int64(counts, j, load_int64(counts, j) + count)", f"    n += {unroll}"]
    return "\n".join(lines)


@cache
def kernel(device: str, family: str, g_dtype: str, on_chip: bool = True) -> Callable:
    """The kernel of one of FAMILIES. on_chip: on CUDA, the rows of a block fit its shared memory."""
    sums = memory.accumulator(g_dtype)
    size = memory.itemsize(sums)
    integer = np.dtype(f"int{8 * size}")
    largest = int(np.iinfo(integer).max)
    constants = {
        "RADIX": RADIX,
        "SIZE": size,
        "BITS": BITS[g_dtype],
        "TOP": 8 * size - 1,
        "LARGEST": largest,
        "SMALLEST": -largest - 1,
        "LOWEST": int(np.dtype(sums).type(-np.inf).view(integer)) ^ largest,
        "int_type": f"np.{integer}",
        "sum_type": f"np.{sums}",
        "zero": f"np.{sums}(0)",
        "infinity": f"np.{sums}(np.inf)",
        "nan": f"np.{sums}(np.nan)",
    }
    constants |= accessors({g_dtype}, sums) | {"load_G": f"load_{g_dtype}"}
    name = stem(family, "" if on_chip else "again", g_dtype)
    as_float, as_int = "int_type(bits).view(sum_type)", "np.int64(sum_type(v).view(int_type))"
    if device == "cpu":
        parts = {
            "sums": sums,
            "keys": _fill(KEYS, as_float=as_float, as_int=as_int),
            "count_rows": _count_rows(),
            "finish": _fill(FAMILIES[family][0], mean=MEAN, depth=cpu_tree.depth_text("rows")),
        }
        return module(name, device, CPU, parts, constants, cpu_tree.imports(sums)).between
    if not SIMULATED:  # there are no methods of numbers in device code
        back, forth = ("int_as_float", "float_as_int") if size == 4 else ("longlong_as_double", "double_as_longlong")
        as_float, as_int = f"cuda.libdevice.{back}(int_type(bits))", f"np.int64(cuda.libdevice.{forth}(v))"
    constants |= {
        "SEGMENT": SEGMENT,
        "SHIFT": tree.SHIFT,
        "THREADS": CUDA_THREADS,
        "VALUES": CUDA_RESIDENT // size,
        "NODES": RADIX * CUDA_COLUMNS[0],
        "LEVELS": DEPTH * CUDA_COLUMNS[0],
        "DEPTH": DEPTH,
        "G_SIZE": memory.itemsize(g_dtype),
    }
    value = "source[n * X + x]" if on_chip else "load_G(source, n * stride)"
    parts = {
        "sums": sums,
        "keys": _fill(KEYS, as_float=as_float, as_int=as_int),
        "source": CUDA_HOLD if on_chip else "source = G_at + column * G_SIZE",
        "value": value,
        "finish": _fill(FAMILIES[family][1], mean=MEAN, value=value),
    }
    return module(name, device, CUDA, parts, constants).between


def _fill(text, **parts):
    return fill(text, **parts).rstrip()


def between(
    device: str, family: str, g_dtype: str, rows: int, columns: int, G: int, stride: int, low: int, high: int, out: int
) -> None:
    """out <- the mean of the values of the ranks low … high of each column of G; of 0 <= low <= high < rows."""
    sums = np.dtype(memory.accumulator(g_dtype))
    ends = (low, high, sums.type(1 / (high - low + 1)), out)
    if device == "cpu":
        narrowest, widest = CPU_COLUMNS
        tile = min(max(CPU_CACHE // (rows * sums.itemsize), narrowest), widest) // narrowest * narrowest
        scratch_bytes = tile * (4 * 8 + (3 + rows + levels(rows)) * sums.itemsize)
        nbytes = rows * columns * memory.itemsize(g_dtype)
        compiled = kernel(device, family, g_dtype)
        threads.run(compiled, (G, stride, rows, columns, tile, *ends), -(-columns // tile), nbytes, scratch_bytes)
        return
    X = next((X for X in CUDA_COLUMNS if X * rows * sums.itemsize <= CUDA_RESIDENT), 0)
    compiled, X = kernel(device, family, g_dtype, on_chip=bool(X)), X or CUDA_COLUMNS[0]
    X = min(X, BLOCK)
    compiled.launch(-(-columns // X), (X, BLOCK // X), G, stride, rows, columns, *ends)
