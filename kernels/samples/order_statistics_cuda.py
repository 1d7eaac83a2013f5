"""Text of CUDA's kernels of order_statistics.py: a block for some columns, several threads for each."""

DEPTH = 5  # levels above segments: of 2^35 rows

SKELETON = """
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

ON_CHIP = """
source = cuda.shared.array(VALUES, sum_type)
n = y
while n < rows:
    source[n * X + x] = load_G(G_at, n * stride + column)
    n += Y
cuda.syncthreads()
""".strip()

MEDIAN = """
v = lowest
if high > low:
    above = reach(source, stride, rows, after(lowest), counts, x, y, X, Y)
    highest = least(source, stride, rows, after(lowest), shared, x, y, X, Y)
    v = (lowest + (lowest if rows - above > high else highest)) * scale
""".strip()

TRIMMED = """
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
