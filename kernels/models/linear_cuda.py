"""CUDA's kernel of linear.py: a block goes over the rows of a segment, its threads side by side along the features."""

from ..backend import memory
from ..codegen.module import Compiled, accessors, lanes_of, module
from . import linear_job
from .linear_job import JOB

WARP = 32

SKELETON = """
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


def build(name: str, parts: dict[str, str], x_dtype: str, sums: str, tile: int, clipped: bool) -> Compiled:
    """The kernel of this name; parts: those that both devices have."""
    lanes = lanes_of({x_dtype})
    dots = [(r, k) for r in range(linear_job.ROWS) for k in range(tile)]
    accumulators = [f"s{r}_{k}" for r, k in dots] + [f"q{r}" for r in range(linear_job.ROWS) if clipped]
    constants = accessors({x_dtype}, sums, lanes) | {
        "ROWS": linear_job.ROWS,
        "TILE": tile,
        "SUMS": len(accumulators),
        "ROWS_AT": JOB.index("rows"),
        "SEGMENT_AT": JOB.index("segment"),
        "WARP": WARP,
        "SHARED": len(accumulators) * (linear_job.BLOCK + 1),
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
        return [*lines, f"q{r} = fma({x}, {x}, q{r})"] if clipped else lines

    vectors = [f"w{k} = load_sum_lanes(W, a{k} + f)" for k in range(tile)]
    each = [f"w{k} = load_sum(W, a{k} + f)" for k in range(tile)]
    of = [[f"v{k}_{lane}" for lane in range(lanes)] for k in range(tile)]
    add_vectors = [f"{' = '.join(v for of_k in of for v in of_k)} = zero", "if not is_first:"]
    add_vectors += [f"    {', '.join(of[k])} = load_sum_lanes(sums, a{k} + f)" for k in range(tile)]
    add_each = [f"{' = '.join(f'v{k}' for k in range(tile))} = zero", "if not is_first:"]
    add_each += [f"    v{k} = load_sum(sums, a{k} + f)" for k in range(tile)]
    for r in range(linear_job.ROWS):
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
    ]
    if clipped:
        collect += ["else:", f"    store_sum(squares, task - {len(dots)}, total)"]
    parts |= {
        "at": "\n".join(at),
        "offsets": "\n".join(f"o{r} = (n + min(some - 1, np.int64({r}))) * stride" for r in range(linear_job.ROWS)),
        "clear": "\n".join(f"{s} = zero" for s in accumulators),
        "dot_vectors": "\n".join(vectors),
        "dot_each": "\n".join(each),
        "share": "\n".join(f"shared[{q} * pitch + thread] = {s}" for q, s in enumerate(accumulators)),
        "collect": "\n".join(collect),
        "residual_each": "\n".join(f"c{r}_{k} = load_sum(z, {r} * outputs + k{k}) * scale" for r, k in dots),
        "add_vectors": "\n".join(add_vectors),
        "add_each": "\n".join(add_each),
    }
    return module(name, "cuda", SKELETON, parts, constants).one_pass
