"""What a layer does besides matrix products, in one pass over its activations or deltas, a row for each sample.

KERNELS say what becomes of x: z of a layer into its activation, dE/da into dE/dz (its delta), deltas clipped. Each may
also leave the sum of squares of every row: 128 lanes, lane l the left fold by fma of elements l, l + 128, …, added by
halving. `loss_end` makes residuals and errors of the last z; `factors` the norms of samples, from those sums, and the
factors that clip them: |g_n|^2 = sum over layers of |delta_n|^2 (|a_n|^2 + 1), a what the layer takes in.

The same bits on both devices, but for exp and log, and tanh of float64. Source of that norm: I. Goodfellow, "Efficient
Per-Example Gradient Computations", 2015.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import NamedTuple

from ..backend import memory, threads
from ..backend.buffers import address_of
from ..backend.geometry import BLOCK
from ..backend.limits import Limits
from ..codegen.module import Compiled, accessors, lanes_of, module, stem
from . import losses

WIDTH = 128
ROWS = 4  # of a CUDA block
CUDA_BLOCK = min(128, BLOCK)
LIMITS = Limits(threads=1024, in_flight=16 << 10)
ROW_LIMITS = Limits(threads=1024, streams=False)


class Pass(NamedTuple):
    """value: of x and y. y: the place of its value, by column, element or row. stored: whether x becomes the value."""

    value: str
    y: str = "zero"
    stored: bool = True


KERNELS = {
    "relu": Pass("maximum(x + y, zero)", "column"),
    "tanh": Pass("tanh(x + y)", "column"),
    "relu_delta": Pass("zero if y <= zero else x", "element"),  # y: the activation; its NaN lets x pass
    "tanh_delta": Pass("x * fma(-y, y, one)", "element"),
    "scale": Pass("x * y", "row"),
    "squares": Pass("x", stored=False),
}
ACTIVATIONS = ("relu", "tanh")

# tanh(c) = c p(c^2) / q(c^2) for |c| <= 9, beyond which it is 1: within 3e-7 of the value. Fitted for the least
# relative error; the compiler makes vectors of it, where it would call libm once for each element.
_P = 0.9999999795708072, 0.1338102795091403, 0.0034955905973277214, 2.0609114921838622e-05, 1.3354694618229284e-08
_Q = 1.0, 0.46714343577774153, 0.02587699225098431, 0.0003285638484760317, 7.776574281372147e-07
NUMBERS = {f"{name}{k}": value for name, values in (("P", _P), ("Q", _Q)) for k, value in enumerate(values)}
NUMBERS |= {"zero": 0, "one": 1, "BOUND": 9}
TANH = {
    "float32": """
@device
def tanh(x):
    c = minimum(maximum(x, -BOUND), BOUND)
    u = c * c
    p = fma(u, fma(u, fma(u, fma(u, P4, P3), P2), P1), P0)
    q = fma(u, fma(u, fma(u, fma(u, Q4, Q3), Q2), Q1), Q0)
    return minimum(maximum(c * p / q, -one), one)
""".strip(),
    "float64": "@device\ndef tanh(x):\n    return math.tanh(x)",
}

CPU = """
$tanh

@device
def result(x, y):
    return $value

@jit(CODE, "void(int64, int64, int64, int64, int64, int64, int64)")
def layer(x, y, squares, columns, scratch, first, last):
    for row in range(first, last):
        base = row * columns
        $before
        $clear
        for low in range(0, columns, WIDTH):
            for j in range(low, min(low + WIDTH, columns)):
                $element
        $fold
"""
CPU_CLEAR = "for lane in range(WIDTH):\n    store_sum(scratch, lane, zero)"
CPU_SQUARE = "store_sum(scratch, j - low, fma(value, value, load_sum(scratch, j - low)))"
CPU_FOLD = """
half = WIDTH
while half > 1:
    half >>= 1
    for lane in range(half):
        store_sum(scratch, lane, load_sum(scratch, lane) + load_sum(scratch, lane + half))
store_sum(squares, row, load_sum(scratch, 0))
""".strip()

CUDA = """
$tanh

@device
def result(x, y):
    return $value

@jit("int64 int64 int64 int64 int64", NAME, CODE)
def layer(x, y, squares, columns, rows):
    # A row is taken by WIDTH / LANES neighbouring threads, which take neighbouring vectors.
    first = cuda.blockIdx.x * np.int64(ROWS)
    is_aligned = (x | $vector_y) & 15 == 0 and columns % LANES == 0
    $shared
    task = np.int32(cuda.threadIdx.x)
    while task < ROWS * (WIDTH // LANES):
        row = first + task // (WIDTH // LANES)
        base = row * columns
        j = np.int64(task % (WIDTH // LANES) * LANES)
        $clear
        if row < rows:
            $before
            if is_aligned:
                while j < columns:
                    $vector
                    j += WIDTH
            while j < columns:
                $each
                j += WIDTH
        $share
        task += cuda.blockDim.x
    $fold
"""
CUDA_FOLD = """
cuda.syncthreads()
bits = WIDTH_BITS
while bits > 0:
    bits -= 1
    task = np.int32(cuda.threadIdx.x)
    while task < ROWS << bits:
        lane = (task >> bits) * WIDTH + (task & ((1 << bits) - 1))
        lanes[lane] = lanes[lane] + lanes[lane + (1 << bits)]
        task += cuda.blockDim.x
    cuda.syncthreads()
task = np.int32(cuda.threadIdx.x)
while task < ROWS:
    if first + task < rows:
        store_sum(squares, first + task, lanes[task * WIDTH])
    task += cuda.blockDim.x
""".strip()

# Kernels that take a row at a time, with the same text on both devices.
ROW_CPU = """
$functions

@jit(CODE, "void($types, int64, int64, int64)")
def rows($names, scratch, first, last):
    for row in range(first, last):
        $row
"""
ROW_CUDA = """
$functions

@jit("$kinds int64", NAME, CODE)
def rows($names, count):
    row = cuda.blockIdx.x * np.int64(cuda.blockDim.x) + cuda.threadIdx.x
    if row < count:
        $row
"""
LOSS_END = """
at = z + row * outputs * SIZE
for k in range(outputs):
    store_sum(at, k, load_sum(at, k) + load_sum(bias, k))
store_sum(errors, row, residuals(at, targets, row, delta, outputs))
square = zero
for k in range(outputs):
    residual = load_sum(at, k)
    square = fma(residual, residual, square)
    store_sum(at, k, residual * scale)
store_sum(squares, row, square)
""".strip()
FACTORS = """
total = zero
for k in range(layers):
    delta = load_sum(squares, (2 * k + 1) * stride + row)
    total = fma(delta, load_sum(squares, 2 * k * stride + row) + one, total)
norm = sqrt(total)
store_sum(norms, row, norm)
factor = one
if not norm <= max_norm:
    factor = max_norm / norm + (norm - norm)
store_sum(factors, row, factor * scale)
""".strip()


@cache
def kernel(device: str, name: str, dtype: str, squares: bool = False) -> Compiled:
    """The kernel of a row of KERNELS, of addresses x, y, squares and the number of columns."""
    row = KERNELS[name]
    index = {"column": "j", "element": "base + j"}.get(row.y)
    read_y = f"load_sum(y, {index})" if index else "y_value"
    lanes = lanes_of({dtype})
    constants = accessors({dtype}, dtype, None if device == "cpu" else lanes) | _numbers(dtype)
    parts = {"tanh": TANH[dtype] if name == "tanh" else "", "value": row.value}
    parts["before"] = "" if index else f"y_value = {'load_sum(y, row)' if row.y == 'row' else 'zero'}"
    if device == "cpu":
        element = [f"value = result(load_sum(x, base + j), {read_y})"]
        if row.stored:
            element.append("store_sum(x, base + j, value)")
        if squares:
            element.append(CPU_SQUARE)
        parts |= {"element": "\n".join(element)}
        parts |= {"clear": CPU_CLEAR, "fold": CPU_FOLD} if squares else {"clear": "", "fold": ""}
        skeleton = CPU
    else:
        constants |= {"ROWS": ROWS, "SHARED": ROWS * WIDTH, "LANES": lanes, "WIDTH_BITS": WIDTH.bit_length() - 1}
        parts |= _cuda(row, dtype, index, read_y, lanes, squares)
        skeleton = CUDA
    return module(stem("layer", name, "squares" if squares else "", dtype), device, skeleton, parts, constants).layer


def _cuda(row, dtype, index, read_y, lanes, squares):
    vector = [f"x_lanes = load_{dtype}_lanes(x, base + j)"]
    vector += [f"y_lanes = load_{dtype}_lanes(y, {index})"] if index else []
    vector += [f"value_{k} = result(x_lanes[{k}], {f'y_lanes[{k}]' if index else read_y})" for k in range(lanes)]
    square = [f"square_{k} = fma(value_{k}, value_{k}, square_{k})" for k in range(lanes)]
    each = []
    for k in range(lanes):
        read = f"load_sum(y, {index} + {k})" if index else read_y
        lines = [f"value_{k} = result(load_sum(x, base + j + {k}), {read})"]
        if row.stored:
            lines.append(f"store_sum(x, base + j + {k}, value_{k})")
        if squares:
            lines.append(square[k])
        each += [f"if j + {k} < columns:", *(f"    {line}" for line in lines)]
    if row.stored:
        vector.append(f"store_{dtype}_lanes(x, base + j, ({', '.join(f'value_{k}' for k in range(lanes))}))")
    parts = {
        "vector_y": "y" if index else "x",
        "vector": "\n".join([*vector, *square] if squares else vector),
        "each": "\n".join(each),
    }
    if not squares:
        return parts | dict.fromkeys(("shared", "clear", "share", "fold"), "")
    first_lane = "task // (WIDTH // LANES) * WIDTH + task % (WIDTH // LANES) * LANES"
    return parts | {
        "shared": f"lanes = cuda.shared.array(SHARED, np.{dtype})",
        "clear": "\n".join(f"square_{k} = zero" for k in range(lanes)),
        "share": "\n".join(f"lanes[{first_lane} + {k}] = square_{k}" for k in range(lanes)),
        "fold": CUDA_FOLD,
    }


def _numbers(dtype):
    return {name: f"np.{dtype}({value})" for name, value in NUMBERS.items()} | {"WIDTH": WIDTH}


def _of_rows(name, device, dtype, row, integers, numbers, functions=""):
    """A kernel of rows that are independent: their text, and the names of its arguments, numbers being of the dtype."""
    kinds = ["int64"] * len(integers) + [dtype] * len(numbers)
    parts = {"functions": functions, "row": row, "names": ", ".join((*integers, *numbers))}
    parts |= {"types": ", ".join(kinds)} if device == "cpu" else {"kinds": " ".join(kinds)}
    constants = accessors({dtype}, dtype) | _numbers(dtype) | {"SIZE": memory.itemsize(dtype)}
    return module(stem(name, dtype), device, ROW_CPU if device == "cpu" else ROW_CUDA, parts, constants).rows


@cache
def loss_end(device: str, loss: str, dtype: str) -> Compiled:
    """(z, bias, targets, errors, squares, outputs, delta, scale): z + bias becomes the loss's residuals, times scale.

    squares: of each sample's residuals, before that. targets and delta: as losses.py has them.
    """
    integers = "z", "bias", "targets", "errors", "squares", "outputs"
    functions = losses.text(loss)
    return _of_rows(f"end_{loss}", device, dtype, LOSS_END, integers, ("delta", "scale"), functions)


@cache
def factors(device: str, dtype: str) -> Compiled:
    """(squares, norms, factors, layers, stride, max_norm, scale): norms, and the factors that clip, times scale.

    squares: for each layer a row of `stride` sums of the squares of what it takes in, and one of its deltas'.
    """
    integers = "squares", "norms", "factors", "layers", "stride"
    return _of_rows("factors", device, dtype, FACTORS, integers, ("max_norm", "scale"))


@cache
def launcher(device: str, build: Callable, *what: str | bool) -> Callable[..., None]:
    """One of the kernels above, as a function of the shape that it goes over and its arguments: arrays or numbers."""
    compiled, per_block = build(device, *what), ROWS if build is kernel else CUDA_BLOCK

    def launch(shape, *args):
        args = [address_of(arg) if getattr(arg, "ndim", 0) else arg for arg in args]
        if device == "cpu":
            threads.run(compiled, args, shape[0], 8 * shape[0] * shape[1], 8 * WIDTH)
        elif shape[0]:
            compiled.launch(-(-shape[0] // per_block), CUDA_BLOCK, *args, shape[0])

    return launch


def catalogue() -> Iterator[tuple]:
    """(name, limits, build of a dtype) of the CUDA kernels here."""
    for name in KERNELS:
        for squares in (False, True) if name.removesuffix("_delta") in ACTIVATIONS else (name == "squares",):
            yield f"layer_{name}{'_squares' if squares else ''}", LIMITS, partial(kernel, "cuda", name, squares=squares)
    for loss in losses.NAMES:
        yield f"end_{loss}", ROW_LIMITS, partial(loss_end, "cuda", loss)
    yield "layer_factors", ROW_LIMITS, partial(factors, "cuda")
