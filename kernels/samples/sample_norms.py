"""Norms of the samples of a batch, each over all its tensors, in the tree of norm_tree.py, or the factors that clip.

A sample's sums of squares of up to 32 chunks, the `items` of norm_tree.py, and of the nodes above lie `pitch` apart.
`job` is the address of a row: address and number of items, of nodes, the place of the root, the number of places.
`table` holds a row a tensor: number of columns, address of G, G's row stride in elements.
"""

from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType

import numpy as np

from ..backend import memory, simd, threads
from ..backend.buffers import Buffer, Counters, Scratch
from ..backend.geometry import BLOCK
from ..backend.limits import Limits
from ..codegen.module import accessors, fill, lanes_of, module, stem
from ..reduction.norm_tree import CHUNK, GROUP, WIDTH, Tree
from ..reduction.plan import CUDA_BLOCKS
from ..reduction.tree import RADIX

LIMITS = Limits(threads=512)
RESIDENT = 768  # threads, which bounds the registers
CUDA_ROWS = 4, 2, 1  # whose loads a CUDA thread has outstanding
PASS = RADIX  # chunks whose lanes a block adds up at once

# What becomes of a sample's sum of squares. A norm that is not finite makes everything NaN: norm - norm is then not 0.
NORM = "result = sqrt(square)"
FACTOR = """
norm = sqrt(square)
result = one
if not norm <= max_norm:
    result = max_norm / norm + (norm - norm)
if weights != 0:
    result = result * load_sum(weights, n)
""".strip()

FOLD = """
@device
def square_of(job, sums, pitch):
    nodes = load_int64(job, 2)
    for node in range(load_int64(job, 3)):
        first = load_int64(nodes, 3 * node)
        total = zero
        for child in range(first, first + load_int64(nodes, 3 * node + 1)):
            total = total + load_sum(sums, child * pitch)
        store_sum(sums, load_int64(nodes, 3 * node + 2) * pitch, total)
    return load_sum(sums, load_int64(job, 4) * pitch)

@device
def result_of(square, max_norm, weights, n):
    $result
    return result
"""

CPU_FUNCTIONS = """
@device
def square_of_item(table, items, k, n):
    row = table + load_int64(items, 3 * k) * ROW_BYTES
    G = load_int64(row, 1)
    at = n * load_int64(row, 2)
    i = at + load_int64(items, 3 * k + 1)
    stop = min(i + GROUP, at + load_int64(row, 0))
    nothing = spread(zero)
    ones = spread(one)
    total = zero
    while i < stop:
        high = min(i + CHUNK, stop)
        $clear
        while i + WIDTH <= high:
            $add_lanes
            i += WIDTH
        if i < high:
            $add_some
            i = high
        $halve
        total = total + simd.total(v0)
    return total
"""

CPU = """
$functions

@jit(CODE, "void(int64, int64, int64, int64, int64, int64)")
def squares(table, job, sums, scratch, first, last):
    items = load_int64(job, 0)
    count = load_int64(job, 1)
    for task in range(first, last):
        n = task // count
        k = task % count
        place = n * load_int64(job, 5) + load_int64(items, 3 * k + 2)
        store_sum(sums, place, square_of_item(table, items, k, n))

@jit(CODE, "void(int64, int64, int64, int64, $sums, int64, int64, int64)")
def finish(job, sums, out, weights, max_norm, scratch, first, last):
    for n in range(first, last):
        square = square_of(job, sums + n * load_int64(job, 5) * SIZE, 1)
        store_sum(out, n, result_of(square, max_norm, weights, n))
"""

CUDA = """
$functions

@jit("int64 int64 int64 int64 int64 int64 int64 int64 int64 int64 $sums", NAME, CODE, RESIDENT)
def norms(table, job, sums, counters, rows, each, parts, wanted, out, weights, max_norm):
    # A block takes `each` rows, and of their items every parts-th.
    group = cuda.blockIdx.x // parts
    first_row = np.int64(group * each)
    samples = np.int32(min(each, rows - first_row))
    thread = np.int32(cuda.threadIdx.x)
    threads = np.int32(cuda.blockDim.x)
    shared = cuda.shared.array(SHARED, sum_type)
    arrived = cuda.shared.array(1, np.int32)
    items = load_int64(job, 0)
    item = cuda.blockIdx.x % parts
    while item < load_int64(job, 1):
        row = table + load_int64(items, 3 * item) * ROW_BYTES
        start = load_int64(items, 3 * item + 1)
        size = np.int32(min(GROUP, load_int64(row, 0) - start))
        G_at = load_int64(row, 1)
        stride = load_int64(row, 2)
        is_vector = (G_at | stride * G_SIZE) & 15 == 0
        count = np.int32((size + CHUNK - 1) // CHUNK)
        chunks = samples * count
        task = thread
        while task < chunks * (WIDTH // LANES):
            chunk = task // (WIDTH // LANES)
            lane = task % (WIDTH // LANES) * LANES
            sample = chunk // count
            low = (chunk - sample * count) * CHUNK
            high = min(CHUNK, size - low)
            at = (first_row + sample) * stride + (start + low)
            $add_lanes
            task += threads
        $halve
        if thread < samples:
            total = zero
            for k in range(count):
                total = total + shared[(thread * count + k) * WIDTH]
            store_sum(sums, load_int64(items, 3 * item + 2) * rows + first_row + thread, total)
        cuda.syncthreads()
        item += parts
    if wanted > 1:
        if thread == 0:
            # The fences order this block's sums before its arrival, and after it the loads of the last one to arrive.
            counter = counters + 4 * group
            fence()
            arrived[0] = add_atomic(counter, np.int32(1)) - np.int32(wanted - 1)
            if arrived[0] == 0:
                add_atomic(counter, np.int32(-wanted))
            fence()
        cuda.syncthreads()
        if arrived[0] != 0:
            return
    if thread < samples:
        n = first_row + thread
        store_sum(out, n, result_of(square_of(job, sums + n * SIZE, rows), max_norm, weights, n))
"""

# Lanes of all chunks are added by halving; the sum of a chunk is then in its first.
CUDA_HALVE = """
cuda.syncthreads()
bits = WIDTH_BITS
while bits > 0:
    bits -= 1
    task = thread
    while task < chunks << bits:
        at_lane = SQUARES + (task >> bits) * WIDTH + (task & ((1 << bits) - 1))
        shared[at_lane] = shared[at_lane] + shared[at_lane + (1 << bits)]
        task += threads
    cuda.syncthreads()
""".strip()


def cpu_functions(g_dtype: str, clips: bool) -> tuple[str, dict]:
    """Text of square_of_item, for G of this dtype, square_of and result_of, and the constants that they need."""
    sums = memory.accumulator(g_dtype)
    each = simd.lanes(sums)
    every, half, halve = range(WIDTH // each), WIDTH // each // 2, []
    while half:
        halve += [f"v{k} = simd.fma(ones, v{k + half}, v{k})" for k in range(half)]
        half //= 2
    lanes = {
        "clear": "v{k} = nothing",
        "add_lanes": "g = load_g_vector(G, i + {at})\nv{k} = simd.fma(g, g, v{k})",
        "add_some": "g = load_g_some(G, i + {at}, high - i - {at})\nv{k} = simd.fma(g, g, v{k})",
    }
    parts = {name: "\n".join(line.format(k=k, at=k * each) for k in every) for name, line in lanes.items()}
    text = fill(CPU_FUNCTIONS, halve="\n".join(halve), **parts)
    constants = {
        "load_g_vector": f"simd.load({g_dtype!r})",
        "load_g_some": f"simd.load_some({g_dtype!r})",
        "spread": f"simd.spread({sums!r})",
    }
    return text + _fold(clips), _constants(g_dtype) | constants


def cuda_functions(g_dtype: str, clips: bool) -> tuple[str, dict]:
    """The same for a block: text of square_of and result_of, and constants."""
    constants = {"LANES": lanes_of({g_dtype}), "WIDTH_BITS": WIDTH.bit_length() - 1, "RESIDENT": RESIDENT}
    constants["sum_type"] = f"np.{memory.accumulator(g_dtype)}"
    return _fold(clips), _constants(g_dtype, constants["LANES"]) | constants


def _fold(clips):
    return fill(FOLD, result=FACTOR if clips else NORM)


def _constants(g_dtype, lanes=None):
    sums = memory.accumulator(g_dtype)
    constants = {"CHUNK": CHUNK, "WIDTH": WIDTH, "GROUP": GROUP, "ROW_BYTES": 8 * 3, "SIZE": memory.itemsize(sums)}
    constants |= {"G_SIZE": memory.itemsize(g_dtype), "zero": f"np.{sums}(0)", "one": f"np.{sums}(1)"}
    return constants | accessors({g_dtype}, sums, lanes) | {"load_g": f"load_{g_dtype}"}


def add_lanes(g_dtype: str, lanes: int, keep: bool = False) -> str:
    """Text in which a thread adds the squares of its lanes of a chunk, the first `high` elements from index `at` on.

    keep: the values stay in shared memory, from place `put` on, lane k of all threads side by side.
    """

    def put(row, k, value):
        return [f"shared[put + {row * WIDTH + k * (WIDTH // lanes)}] = {value}"] if keep else []

    def move(rows):
        return [f"i += {rows} * WIDTH", *([f"put += {rows} * WIDTH"] if keep else [])]

    lines = [f"q{k} = zero" for k in range(lanes)] + ["i = lane", "if is_vector:"]
    for rows in CUDA_ROWS:
        loop = [f"g{r} = load_{g_dtype}_lanes(G_at, at + i + {r * WIDTH})" for r in range(rows)]
        for r in range(rows):
            for k in range(lanes):
                loop += [*put(r, k, f"g{r}[{k}]"), f"q{k} = fma(g{r}[{k}], g{r}[{k}], q{k})"]
        lines.append(f"    while i + {(rows - 1) * WIDTH + lanes} <= high:")
        lines += [f"        {line}" for line in loop + move(rows)]
    lines.append("while i < high:")
    for k in range(lanes):
        loop = [f"x = load_{g_dtype}(G_at, at + i + {k})", *put(0, k, "x"), f"q{k} = fma(x, x, q{k})"]
        lines += [f"    if i + {k} < high:", *(f"        {line}" for line in loop)]
    lines += [f"    {line}" for line in move(1)]
    return "\n".join(lines + [f"shared[SQUARES + chunk * WIDTH + lane + {k}] = q{k}" for k in range(lanes)])


@cache
def kernels(device: str, g_dtype: str, clips: bool = False) -> ModuleType:
    """The module of the norms of samples of this dtype, or of the factors, times weights, that clip them.

    It has `norms`, or on the CPU `squares` and, after the last of the launches that share a job, `finish`.
    """
    on_cpu, sums = device == "cpu", memory.accumulator(g_dtype)
    functions, constants = (cpu_functions if on_cpu else cuda_functions)(g_dtype, clips)
    parts = {"functions": functions, "sums": sums}
    if not on_cpu:
        parts |= {"add_lanes": add_lanes(g_dtype, constants["LANES"]), "halve": CUDA_HALVE}
        constants |= {"SQUARES": 0, "SHARED": PASS * WIDTH}
    name = stem("sample_norms", "clips" if clips else "", g_dtype)
    return module(name, device, CPU if on_cpu else CUDA, parts, constants)


def tree_row(tree: Tree, items: Buffer, nodes: Buffer) -> np.ndarray:
    """The row that kernels call `job`. A single item is the root itself."""
    places = -(-max(tree.places, 1) // 16) * 16  # whole cache lines
    root = tree.roots[0] if len(nodes) else 0
    return np.array([items.address, len(items), nodes.address, len(nodes), root, places], np.int64)


class SampleNorms:
    """Norms of samples whose tensors have these dtypes and numbers of columns; clips: the factors that clip them."""

    def __init__(
        self, device: str, xp: ModuleType, dtypes: Sequence[str], columns: Sequence[int], clips: bool = False
    ) -> None:
        self.device, self.xp, self.clips, self.columns = device, xp, clips, columns
        self.sums = memory.accumulator(dtypes[0]) if dtypes else "float32"
        self.scratch, self.counters, tree = Scratch(xp), Counters(xp), Tree(columns, joint=True)
        nodes = Buffer(xp, tree.nodes[: 0 if len(tree.items) == 1 else None])
        self.parts = []  # (dtype, tensors, table, items, job) of each launch
        for dtype in dict.fromkeys(dtypes or ("float32",)):
            tensors = [k for k, d in enumerate(dtypes) if d == dtype]
            places = tree.items[np.isin(tree.items[:, 0], tensors)].copy()
            places[:, 0] = np.searchsorted(tensors, places[:, 0])
            items = Buffer(xp, places)
            row = tree_row(tree, items, nodes)
            self.parts.append((dtype, tensors, Buffer(xp), items, Buffer(xp, row), nodes))
        self.places = int(row[-1])

    def prepare(
        self, matrices: list, rows: int, out: int, max_norm: float = 0, weights: int = 0
    ) -> list[Callable[[], None]]:
        """The launches, which keep the memory that they work in.

        matrices: (address, row stride) of each. out: the address of a number for each sample.

        max_norm: what norms are clipped to; weights: the address of numbers that multiply the factors, or 0.
        """
        size, launches = memory.itemsize(self.sums), []
        sums = self.scratch.get("sums", rows * self.places * size)
        max_norm = np.dtype(self.sums).type(max_norm)
        widest = max(1, min(RADIX, -(-max(self.columns, default=1) // CHUNK)))
        each = max(1, min(PASS // widest, rows // (CUDA_BLOCKS // 2)))
        groups = -(-rows // each)
        counts = [max(1, min(len(items), -(-CUDA_BLOCKS // max(1, groups)))) for _, _, _, items, *_ in self.parts]
        counters = self.counters.get(groups)
        for (dtype, tensors, table, items, job, _), parts in zip(self.parts, counts, strict=True):
            table.set(np.array([(self.columns[k], *matrices[k]) for k in tensors], np.int64).reshape(-1, 3))
            module = kernels(self.device, dtype, self.clips)
            if self.device == "cuda":
                args = (
                    table.address,
                    job.address,
                    sums,
                    counters,
                    rows,
                    each,
                    parts,
                    sum(counts),
                    out,
                    weights,
                    max_norm,
                )
                launches.append(module.norms.prepare(groups * parts, BLOCK, *args, counters=self.counters, keeps=self))
            else:
                nbytes = rows * sum(self.columns[k] for k in tensors) * memory.itemsize(dtype)
                args = table.address, job.address, sums
                launches.append(threads.Launch(module.squares, args, rows * len(items), nbytes, keeps=self))
        if self.device == "cpu":
            args, nbytes = (job.address, sums, out, weights, max_norm), rows * self.places * size
            launches.append(threads.Launch(module.finish, args, rows, nbytes, keeps=self))
        return launches
