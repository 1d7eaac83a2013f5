"""The CPU's kernel of linear.py: in vectors along the features, the sums of some rows and outputs in registers."""

from ..backend import memory, simd
from ..codegen.module import Compiled, accessors, fill, module
from . import linear_job

SUMS = 20  # vectors of partial sums that the registers hold

SKELETON = """
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


def build(name: str, parts: dict[str, str], x_dtype: str, sums: str, tile: int, clipped: bool) -> Compiled:
    """The kernel of this name; parts: those that both devices have."""
    constants = accessors({x_dtype}, sums) | {
        "ROWS": linear_job.ROWS,
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
    rows = {"many": linear_job.ROWS, "one": 1}
    parts |= {
        "outputs": "\n\n".join(_outputs(name, min(n, _together(tile)), tile, clipped) for name, n in rows.items()),
        "sums": "\n\n".join(_add(name, n, min(tile, 2)) for name, n in rows.items()),
    }
    return module(name, "cpu", SKELETON, parts, constants).one_pass


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
            if clipped:
                lines.append(f"q{r} = simd.fma(x, x, q{r})")
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
            if rows > 1 and not count:
                lines.append(f"simd.prefetch(X + (o{r} + f) * X_SIZE + ahead)")
        lines += [f"store_vector(sums, (k + {k}) * pitch + {f}, v{k})" for k in range(tile)]
        return "\n".join(lines)

    parts = {"step": step("f", "load_x"), "tail": step("whole", "load_some_x", ", tail")}
    return fill(ADD, name=name, begin="\n".join(begin), **parts).strip()
