"""Text of the CPU's kernels of order_statistics.py: a tile of columns in the cache, row by row."""

UNROLL = 16, 1  # rows that the CPU counts in one pass over the columns

SKELETON = """
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

MEDIAN = """
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

TRIMMED = """
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


def count_rows() -> str:
    """The lines that count rows n … rows-1."""
    lines = []
    for unroll in UNROLL:
        each = range(unroll)
        lines += [f"while rows - n >= {unroll}:", *(f"    i{k} = (n + {k}) * tile" for k in each)]
        lines += ["    for j in range(width):", "        v = load_sum(floats, j)", "        count = int_type(0)"]
        lines += [f"        count = int_type(count + int_type(load_sum(values, i{k} + j) >= v))" for k in each]
        lines += ["        store_int64(counts, j, load_int64(counts, j) + count)", f"    n += {unroll}"]
    return "\n".join(lines)
