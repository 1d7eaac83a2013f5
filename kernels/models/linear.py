"""Loss and gradient of a model that is linear in its inputs, in one read of them.

z_n = scale * x_n W + b, residual r_n of the loss, then dW = sum_n scale * x_n r_n^T and db = sum_n r_n, while the rows
are still on chip. A sample's norm is |r_n| sqrt(scale^2 |x_n|^2 + 1); with max_norm its residual is multiplied by the
factor that clips it.

An item of work is a segment of rows, of the same size for any number of threads; its sums go to a row of `weights` and
one of `biases`, to be added up by reduce.py or reduce_update.py. `job` is the address of a row of int64: see JOB.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial

from ..backend import geometry, memory, simd
from ..backend.limits import Limits
from ..codegen.module import accessors, fill, lanes_of, module, stem
from . import losses

# Addresses, but for the numbers rows, n_features, outputs and segment. W: the weights, an output a row; on the CPU,
# rows of 0 up to padded(outputs). numbers: scale, max_norm and Huber's delta, in the dtype of the sums. errors: one a
# segment. work: on CUDA, work_size() sums a segment. What changes from batch to batch comes beside the job: X, its
# stride in elements, the targets, and the norms of the samples, or 0.
JOB = (
    *("rows", "n_features", "outputs", "W", "b", "numbers"),
    *("segment", "weights", "biases", "errors", "work"),
)
ROWS = 8  # whose residuals are made together, while they are in the cache
SUMS = 20  # vectors of partial sums that the registers hold
TILE = 5  # outputs at most, whose sums are among them
SEGMENTS = {"cpu": 64, "cuda": 1024}  # at most so many
BLOCK = min(128, geometry.BLOCK)  # threads of CUDA's
WARP = 32
LIMITS = Limits(threads=256, in_flight=20 << 10)
LEAST = 32  # rows of one, for each output: its sums are few bytes beside its rows

CPU = """
$residuals

$outputs

$sums

@jit(CODE, "void(int64, int64, int64, int64, int64, int64, int64, int64)")
def one_pass(job, X, stride, targets, norms, scratch, first, last):
    $job
    scale, max_norm, delta = load_sum(numbers, 0), load_sum(numbers, 1), load_sum(numbers, 2)
    padded = (outputs + TILE - 1) // TILE * TILE
    padded += padded % BACK
    pitch = (n_features + LANES - 1) // LANES * LANES
    bias_sums = scratch + padded * pitch * SIZE
    z = bias_sums + padded * SIZE
    squares = z + ROWS * padded * SIZE
    offsets = squares + ROWS * SIZE
    for item in range(first, last):
        n = item * segment
        stop = min(rows, n + segment)
        error = 0.0
        for j in range(padded * (pitch + 1)):
            store_sum(scratch, j, zero)
        while n < stop:
            some = ROWS if stop - n >= ROWS else 1
            for r in range(some):
                store_int64(offsets, r, (n + r) * stride)
            for k in range(0, outputs, TILE):
                if some == ROWS:
                    for r in range(0, ROWS, TOGETHER):
                        outputs_of_many(X, offsets, W, n_features, k, z, squares, r, padded)
                else:
                    outputs_of_one(X, offsets, W, n_features, k, z, squares, 0, padded)
            for r in range(some):
                at = z + r * padded * SIZE
                for k in range(outputs):
                    store_sum(at, k, fma(scale, load_sum(at, k), load_sum(b, k)))
                error += residuals(at, targets, n + r, delta, outputs)
                factor = one
                $clip
                for k in range(outputs):
                    residual = load_sum(at, k) * factor
                    store_sum(bias_sums, k, load_sum(bias_sums, k) + residual)
                    store_sum(at, k, residual * scale)
                for k in range(outputs, padded):
                    store_sum(at, k, zero)
            for k in range(0, outputs, BACK):
                if some == ROWS:
                    add_many(X, offsets, n_features, k, z, scratch, pitch, padded, ROWS * stride * X_SIZE)
                else:
                    add_one(X, offsets, n_features, k, z, scratch, pitch, padded, 0)
            n += some
        for k in range(outputs):
            for j in range(n_features):
                store_sum(weights, (item * n_features + j) * outputs + k, load_sum(scratch, k * pitch + j))
            store_sum(biases, item * outputs + k, load_sum(bias_sums, k))
        store_sum(errors, item, error)
"""

CUDA = """
$residuals

@jit("int64 int64 int64 int64 int64", NAME, CODE)
def one_pass(job, X, stride, targets, norms):
    item = np.int64(cuda.blockIdx.x)
    thread = np.int64(cuda.threadIdx.x)
    threads = np.int64(cuda.blockDim.x)
    shared = cuda.shared.array(SHARED, sum_type)
    pitch = threads + 1
    rows, segment = load_int64(job, ROWS_AT), load_int64(job, SEGMENT_AT)
    n = item * segment
    stop = min(rows, n + segment)
    is_first = True
    error = zero
    while n < stop:
        # Read again for every ROWS rows: what is made of them would else take registers of the main loops.
        $job
        scale, max_norm, delta = load_sum(numbers, 0), load_sum(numbers, 1), load_sum(numbers, 2)
        biases += item * outputs * SIZE
        sums = work + item * (outputs * (n_features + ROWS) + ROWS) * SIZE
        z = sums + outputs * n_features * SIZE
        squares = z + ROWS * outputs * SIZE
        is_vector = (X | W | work | stride * X_SIZE) & 15 == 0 and n_features % LANES == 0
        some = min(stop - n, np.int64(ROWS))
        # Rows that are missing read the last one again, with residuals of 0.
        $offsets
        for k in range(0, outputs, TILE):
            $at
            $clear
            if is_vector:
                f = thread * LANES
                while f < n_features:
                    $dot_vectors
                    f += threads * LANES
            else:
                f = thread
                while f < n_features:
                    $dot_each
                    f += threads
            $share
            cuda.syncthreads()
            task = thread
            while task < SUMS * WARP:
                at = task // WARP * pitch + task % WARP
                total = shared[at]
                for j in range(WARP, threads, WARP):
                    total = total + shared[at + j]
                shared[at] = total
                task += threads
            cuda.syncthreads()
            task = thread
            while task < SUMS:
                total = zero
                for j in range(WARP):
                    total = total + shared[task * pitch + j]
                $collect
                task += threads
            cuda.syncthreads()
        if thread < some:
            r = thread
            at = z + r * outputs * SIZE
            error += residuals(at, targets, n + r, delta, outputs)
            factor = one
            $clip
            for k in range(outputs):
                store_sum(at, k, load_sum(at, k) * factor)
        elif thread < ROWS:
            for k in range(outputs):
                store_sum(z, thread * outputs + k, zero)
        cuda.syncthreads()
        k = thread
        while k < outputs:
            total = zero if is_first else load_sum(biases, k)
            for r in range(some):
                total = total + load_sum(z, r * outputs + k)
            store_sum(biases, k, total)
            k += threads
        for k in range(0, outputs, TILE):
            $at
            $residual_each
            if is_vector:
                f = thread * LANES
                while f < n_features:
                    $add_vectors
                    f += threads * LANES
            else:
                f = thread
                while f < n_features:
                    $add_each
                    f += threads
        cuda.syncthreads()
        is_first = False
        n += some
    $job
    weights += item * n_features * outputs * SIZE
    sums = work + item * (outputs * (n_features + ROWS) + ROWS) * SIZE
    f = thread
    while f < n_features:
        for k in range(outputs):
            store_sum(weights, f * outputs + k, load_sum(sums, k * n_features + f))
        f += threads
    if thread < ROWS:
        shared[thread] = error
    cuda.syncthreads()
    if thread == 0:
        total = zero
        for r in range(ROWS):
            total = total + shared[r]
        store_sum(errors, item, total)
"""

CLIP = """
square = zero
for k in range(outputs):
    square = fma(load_sum(at, k), load_sum(at, k), square)
norm = sqrt(square) * sqrt(fma(scale * scale, load_sum(squares, r), one))
if norms != 0:
    store_sum(norms, n + r, norm)
if not norm <= max_norm:
    factor = max_norm / norm + (norm - norm)
""".strip()

# x_n W of some rows and outputs: the sums, a vector each, stay in registers.
OUTPUTS = """
@device
def outputs_of_$name(X, offsets, W, n_features, k, z, squares, r, padded):
    tail = n_features % LANES
    whole = n_features - tail
    $begin
    for f in range(0, whole, LANES):
        $step
    if tail > 0:
        $tail
    $end
"""

# Add the rows, times their residuals, to the sums of BACK outputs; ahead: bytes from these rows to the next ones.
ADD = """
@device
def add_$name(X, offsets, n_features, k, z, sums, pitch, padded, ahead):
    tail = n_features % LANES
    whole = n_features - tail
    $begin
    for f in range(0, whole, LANES):
        $step
    if tail > 0:
        $tail
"""


def tile_of(outputs: int, device: str = "cpu", x_dtype: str = "float32") -> int:
    """Outputs that are summed up in one pass over the rows."""
    limit = TILE
    if device == "cuda":  # a thread has weights of so many elements, too, in its registers
        limit = {4: 5, 2: 3, 8: 2, 16: 1}[lanes_of({x_dtype})]
    return -(-outputs // -(-outputs // limit))


def segment(device: str, rows: int, outputs: int) -> int:
    """Rows of an item of work, whatever the number of threads."""
    least = max(LEAST * outputs, -(-rows // SEGMENTS[device]))
    return -(-least // LEAST) * LEAST


def work_size(device: str, outputs: int, n_features: int) -> int:
    """Sums of a segment on CUDA: those of the weights, an output a row, then outputs and squares of ROWS rows."""
    return outputs * (n_features + ROWS) + ROWS if device == "cuda" else 0


def padded(outputs: int) -> int:
    """Rows of the weights."""
    return -(-outputs // tile_of(outputs)) * tile_of(outputs)


def scratch_bytes(outputs: int, n_features: int, sums: str) -> int:
    """Bytes that a thread works in."""
    rows, pitch = padded(outputs) + 1, n_features + simd.lanes(sums)
    return (rows * (pitch + 1 + ROWS) + ROWS) * memory.itemsize(sums) + 8 * ROWS + 64


@cache
def kernel(device: str, loss: str, x_dtype: str, tile: int, clipped: bool = False) -> Callable:
    """The kernel of a loss for X of x_dtype; sums, weights and targets have the accumulator's dtype.

    clipped: it makes the norms of samples, stores them if asked to, and clips to max_norm.
    """
    sums = memory.accumulator("float32" if x_dtype == "uint8" else x_dtype)
    name = stem("one_pass", loss, str(tile), "clipped" if clipped else "", x_dtype)
    parts = {
        "residuals": losses.text(loss),
        "job": "\n".join(f"{n} = load_int64(job, {k})" for k, n in enumerate(JOB)),
        "clip": CLIP if clipped else "",
    }
    if device == "cuda":
        return _cuda(name, parts, x_dtype, sums, tile, clipped)
    constants = accessors({x_dtype}, sums) | {
        "ROWS": ROWS,
        "TILE": tile,
        "TOGETHER": _together(tile),
        "BACK": min(tile, 2),
        "SIZE": memory.itemsize(sums),
        "X_SIZE": memory.itemsize(x_dtype),
        "LANES": simd.lanes(sums),
        "zero": f"np.{sums}(0)",
        "one": f"np.{sums}(1)",
        "load_x": f"simd.load({x_dtype!r})",
        "load_some_x": f"simd.load_some({x_dtype!r})",
        "load_vector": f"simd.load({sums!r})",
        "load_some": f"simd.load_some({sums!r})",
        "store_vector": f"simd.store({sums!r})",
        "spread": f"simd.spread({sums!r})",
    }
    rows = {"many": ROWS, "one": 1}
    parts |= {
        "outputs": "\n\n".join(_outputs(name, min(n, _together(tile)), tile, clipped) for name, n in rows.items()),
        "sums": "\n\n".join(_add(name, n, min(tile, 2)) for name, n in rows.items()),
    }
    return module(name, device, CPU, parts, constants).one_pass


def _together(tile):
    """Rows that are summed up at once."""
    return max(n for n in (1, 2, 4, 8) if n * tile <= SUMS)


def _outputs(name, rows, tile, clipped):
    each = [(r, k) for r in range(rows) for k in range(tile)]
    begin = [f"o{r} = load_int64(offsets, r + {r})" for r in range(rows)]
    begin += [f"s{r}_{k} = spread(zero)" for r, k in each]
    begin += [f"q{r} = spread(zero)" for r in range(rows) if clipped]

    def step(f, load_x, load_w, count=""):
        lines = [f"w{k} = {load_w}(W, (k + {k}) * n_features + {f}{count})" for k in range(tile)]
        for r in range(rows):
            lines.append(f"x = {load_x}(X, o{r} + {f}{count})")
            lines += [f"s{r}_{k} = simd.fma(x, w{k}, s{r}_{k})" for k in range(tile)]
            lines += [f"q{r} = simd.fma(x, x, q{r})"] * clipped
        return "\n".join(lines)

    end = [f"store_sum(z, (r + {r}) * padded + k + {k}, simd.total(s{r}_{k}))" for r, k in each]
    end += [f"store_sum(squares, r + {r}, simd.total(q{r}))" for r in range(rows) if clipped]
    parts = {"step": step("f", "load_x", "load_vector"), "tail": step("whole", "load_some_x", "load_some", ", tail")}
    return fill(OUTPUTS, name=name, begin="\n".join(begin), end="\n".join(end), **parts).strip()


def _add(name, rows, tile):
    begin = [f"o{r} = load_int64(offsets, {r})" for r in range(rows)]
    begin += [f"c{r}_{k} = spread(load_sum(z, {r} * padded + k + {k}))" for r in range(rows) for k in range(tile)]

    def step(f, load_x, count=""):
        lines = [f"v{k} = load_vector(sums, (k + {k}) * pitch + {f})" for k in range(tile)]
        for r in range(rows):
            lines.append(f"x = {load_x}(X, o{r} + {f}{count})")
            lines += [f"v{k} = simd.fma(x, c{r}_{k}, v{k})" for k in range(tile)]
            lines += [f"simd.prefetch(X + (o{r} + f) * X_SIZE + ahead)"] * (rows > 1 and not count)
        lines += [f"store_vector(sums, (k + {k}) * pitch + {f}, v{k})" for k in range(tile)]
        return "\n".join(lines)

    parts = {"step": step("f", "load_x"), "tail": step("whole", "load_some_x", ", tail")}
    return fill(ADD, name=name, begin="\n".join(begin), **parts).strip()


def _cuda(name, parts, x_dtype, sums, tile, clipped):
    lanes = lanes_of({x_dtype})
    dots = [(r, k) for r in range(ROWS) for k in range(tile)]
    count = len(dots) + ROWS * clipped
    constants = accessors({x_dtype}, sums, lanes) | {
        "ROWS": ROWS,
        "TILE": tile,
        "SUMS": count,
        "ROWS_AT": JOB.index("rows"),
        "SEGMENT_AT": JOB.index("segment"),
        "WARP": WARP,
        "SHARED": count * (BLOCK + 1),
        "SIZE": memory.itemsize(sums),
        "X_SIZE": memory.itemsize(x_dtype),
        "LANES": lanes,
        "sum_type": f"np.{sums}",
        "load_sum_lanes": f"load_{sums}_lanes",
        "store_sum_lanes": f"store_{sums}_lanes",
        "zero": f"np.{sums}(0)",
        "one": f"np.{sums}(1)",
    }
    number = f"np.{sums}({{}})" if x_dtype == "uint8" else "{}"
    # An output beyond the last one of a tile is the last one again: it stores the same sums.
    at = [f"k{k} = min(k + {k}, outputs - 1)" for k in range(tile)] + [f"a{k} = k{k} * n_features" for k in range(tile)]

    def dot(r, x, suffix):
        lines = [f"s{r}_{k} = fma({x}, w{k}{suffix}, s{r}_{k})" for k in range(tile)]
        return lines + [f"q{r} = fma({x}, {x}, q{r})"] * clipped

    vectors = [f"w{k} = load_sum_lanes(W, a{k} + f)" for k in range(tile)]
    each = [f"w{k} = load_sum(W, a{k} + f)" for k in range(tile)]
    of = [[f"v{k}_{lane}" for lane in range(lanes)] for k in range(tile)]
    add_vectors = [f"{' = '.join(v for of_k in of for v in of_k)} = zero", "if not is_first:"]
    add_vectors += [f"    {', '.join(of[k])} = load_sum_lanes(sums, a{k} + f)" for k in range(tile)]
    add_each = [f"{' = '.join(f'v{k}' for k in range(tile))} = zero", "if not is_first:"]
    add_each += [f"    v{k} = load_sum(sums, a{k} + f)" for k in range(tile)]
    for r in range(ROWS):
        load = f"x = load_{x_dtype}_lanes(X, o{r} + f)"
        vectors.append(load)
        add_vectors.append(load)
        for lane in range(lanes):
            x = f"x{lane}"
            vectors += [f"{x} = {number.format(f'x[{lane}]')}", *dot(r, x, f"[{lane}]")]
            add_vectors.append(f"{x} = {number.format(f'x[{lane}]')}")
            add_vectors += [f"v{k}_{lane} = fma({x}, c{r}_{k}, v{k}_{lane})" for k in range(tile)]
        load = f"x = {number.format(f'load_{x_dtype}(X, o{r} + f)')}"
        each += [load, *dot(r, "x", "")]
        add_each += [load, *(f"v{k} = fma(x, c{r}_{k}, v{k})" for k in range(tile))]
    add_vectors += [f"store_sum_lanes(sums, a{k} + f, ({', '.join(of[k])}))" for k in range(tile)]
    add_each += [f"store_sum(sums, a{k} + f, v{k})" for k in range(tile)]
    collect = [
        f"if task < {len(dots)}:",
        f"    r, kk = task // {tile}, k + task % {tile}",
        "    if kk < outputs:",
        "        store_sum(z, r * outputs + kk, fma(scale, total, load_sum(b, kk)))",
        *(["else:", f"    store_sum(squares, task - {len(dots)}, total)"] * clipped),
    ]
    parts |= {
        "at": "\n".join(at),
        "offsets": "\n".join(f"o{r} = (n + min(some - 1, np.int64({r}))) * stride" for r in range(ROWS)),
        "clear": "\n".join([f"s{r}_{k} = zero" for r, k in dots] + [f"q{r} = zero" for r in range(ROWS) if clipped]),
        "dot_vectors": "\n".join(vectors),
        "dot_each": "\n".join(each),
        "share": "\n".join(
            f"shared[{q} * pitch + thread] = {s}"
            for q, s in enumerate([f"s{r}_{k}" for r, k in dots] + [f"q{r}" for r in range(ROWS) if clipped])
        ),
        "collect": "\n".join(collect),
        "residual_each": "\n".join(f"c{r}_{k} = load_sum(z, {r} * outputs + k{k}) * scale" for r, k in dots),
        "add_vectors": "\n".join(add_vectors),
        "add_each": "\n".join(add_each),
    }
    return module(name, "cuda", CUDA, parts, constants).one_pass


def catalogue() -> Iterator[tuple]:
    """(name, limits, build of a dtype of X, dtypes) of some CUDA kernels.

    The losses themselves are in those of layers.py, every one.
    """

    def build(loss, x_dtype, clipped=False):
        tile = tile_of(10 if loss == "softmax" else 1, "cuda", x_dtype)
        return kernel("cuda", loss, x_dtype, tile, clipped)

    for loss, dtypes in {"squared": ("float32", "float64"), "logistic": ("float32",)}.items():
        yield f"one_pass_{loss}", LIMITS, partial(build, loss), dtypes
    dtypes = "float32", "float16", "uint8"
    yield "one_pass_softmax_clipped", LIMITS, partial(build, "softmax", clipped=True), dtypes
