"""Samples clipped to a norm and added up in one read: each is read again from the cache, or from shared memory.

What comes out are nodes of the tree of tree.py over the weighted rows, c_n min(1, max_norm / |G_n|) G_n, which
reduce.py or reduce_update.py then fold as the rows of a shorter matrix. Norms are those of sample_norms.py.
"""

from collections.abc import Callable
from functools import cache
from types import ModuleType

import numpy as np

from ..backend import memory, simd, threads
from ..backend.buffers import Buffer
from ..backend.geometry import BLOCK
from ..backend.limits import Limits
from ..codegen.module import Compiled, fill, module, stem
from ..reduction import cpu_tree
from ..reduction.norm_tree import CHUNK, WIDTH, Tree
from ..reduction.tree import RADIX, levels
from ..reduction.tree import constants as tree_constants
from .sample_norms import CUDA_HALVE, add_lanes, cpu_functions, cuda_functions, tree_row

LIMITS = Limits(threads=1024)
RESIDENT = 1024  # threads, which bounds the registers
CPU_BYTES = 1 << 18  # of rows that are read again from the cache
CPU_VECTORS = 8  # of sums in registers
CPU_PIECES = 4  # nodes wanted for each thread
CUDA_BYTES = 1 << 15  # of shared memory for rows, in the dtype of the sums
CUDA_SQUARES = 1 << 13  # and for the lanes of their squares
CUDA_SUMS = 16  # registers with a thread's sums
CUDA_NODES = 1 << 8  # fewer leave multiprocessors idle: two reads then

CPU = """
$functions

$fold

@jit(CODE, "void(int64, int64, int64, int64, int64, int64, int64, int64, $sums, int64, int64, int64)")
def clipped(table, tensors, width, job, rows, segment, group, weights, max_norm, scratch, first, last):
    # scratch: sums of squares of a sample, then sums, level by level, of each tensor, then factors of a group of rows.
    items = load_int64(job, 0)
    nodes = scratch + load_int64(job, 5) * SIZE
    end = table + tensors * ROW_BYTES
    for item in range(first, last):
        start = item * segment
        stop = min(rows, start + segment)
        $depth
        factors = nodes + depth * width * SIZE
        for j in range(depth * width):
            store_sum(nodes, j, zero)
        for low in range(start, stop, group):
            high = min(low + group, stop)
            for n in range(low, high):
                for k in range(load_int64(job, 1)):
                    store_sum(scratch, load_int64(items, 3 * k + 2), square_of_item(table, items, k, n))
                store_sum(factors, n - low, result_of(square_of(job, scratch, 1), max_norm, weights, n))
            at = nodes
            for row in range(table, end, ROW_BYTES):
                columns = load_int64(row, 0)
                stride = load_int64(row, 2)
                pitch = (columns + LANES - 1) // LANES * LANES
                G = load_int64(row, 1) + low * stride * G_SIZE
                fold(at, pitch, G, stride, 0, columns, factors, low - start, 0, high - low)
                at += depth * pitch * SIZE
        at = nodes
        for row in range(table, end, ROW_BYTES):
            columns = load_int64(row, 0)
            pitch = (columns + LANES - 1) // LANES * LANES
            root(at, at, pitch, columns, depth)
            for j in range(columns):
                store_sum(load_int64(row, 3), item * columns + j, load_sum(at, j))
            at += depth * pitch * SIZE
"""

# The sums of BLOCK columns stay in registers while the rows go by. Sums have room for whole vectors.
ADD_ROWS = """
j = np.int64(0)
while j + BLOCK <= width:
    i = first * stride + column + j
    $load_block
    for n in range(first, stop):
        c = spread(load_sum(weights, n))
        $add_block
        i += stride
    $store_block
    j += BLOCK
while j < width:
    i = first * stride + column + j
    v0 = load_vector(nodes, j)
    for n in range(first, stop):
        v0 = simd.fma(spread(load_sum(weights, n)), load_g_some(G, i, width - j), v0)
        i += stride
    store_vector(nodes, j, v0)
    j += LANES
first = stop
""".strip()

CUDA = """
$functions

@jit("int64 int64 int64 int64 int64 int64 int64 int64 $sums", NAME, CODE, RESIDENT)
def clipped(table, tensors, chunks_table, count, pitch, each, rows, weights, max_norm):
    # A block adds up the 32 rows of a node, `each` at a time, which it keeps in shared memory. There a sample takes
    # `pitch` places, whole rows of WIDTH for each tensor, and neighbouring threads write side by side: element i of a
    # row of WIDTH lies at i % LANES * (WIDTH / LANES) + i / LANES. Thread x adds up places x, x + X, ….
    node = np.int64(cuda.blockIdx.x)
    n = node * RADIX
    last = min(rows, n + RADIX)
    thread = np.int32(cuda.threadIdx.x)
    threads = np.int32(cuda.blockDim.x)
    shared = cuda.shared.array(SHARED, sum_type)
    c_of = cuda.shared.array(RADIX, sum_type)
    $clear_sums
    while n < last:
        samples = np.int32(min(each, last - n))
        chunks = samples * np.int32(count)
        task = thread
        while task < chunks * (WIDTH // LANES):
            chunk = task // (WIDTH // LANES)
            lane = task % (WIDTH // LANES) * LANES
            sample = chunk // count
            row = chunks_table + np.int64(chunk - sample * count) * CHUNK_BYTES
            G_at = load_int64(row, 0)
            stride = load_int64(row, 1)
            at = (n + sample) * stride + load_int64(row, 2)
            high = np.int32(load_int64(row, 3))
            put = np.int32(sample * pitch + load_int64(row, 4) + lane // LANES)
            is_vector = (G_at | stride * G_SIZE) & 15 == 0
            $add_lanes
            task += threads
        $halve
        if thread < samples:
            total = zero
            square = zero
            for k in range(count):
                square = square + shared[SQUARES + (thread * count + k) * WIDTH]
                if load_int64(chunks_table + k * CHUNK_BYTES, 5) != 0:
                    total = total + square
                    square = zero
            c_of[thread] = result_of(total, max_norm, weights, n + thread)
        cuda.syncthreads()
        $add_samples
        cuda.syncthreads()
        n += each
    $share_sums
    cuda.syncthreads()
    for tensor in range(tensors):
        row = table + tensor * ROW_BYTES
        columns = load_int64(row, 0)
        out = load_int64(row, 2)
        j = np.int64(thread)
        while j < columns:
            place = load_int64(row, 1) + j // WIDTH * WIDTH + j % LANES * (WIDTH // LANES) + j % WIDTH // LANES
            store_sum(out, node * columns + j, shared[place])
            j += threads
"""


def _add_rows(sums):
    lines = {
        "load_block": "v{k} = load_vector(nodes, j + {at})",
        "add_block": "v{k} = simd.fma(c, load_g_vector(G, i + {at}), v{k})",
        "store_block": "store_vector(nodes, j + {at}, v{k})",
    }
    places = [{"k": k, "at": k * simd.lanes(sums)} for k in range(CPU_VECTORS)]
    return fill(ADD_ROWS, **{n: "\n".join(line.format(**place) for place in places) for n, line in lines.items()})


@cache
def kernel(device: str, g_dtype: str) -> Compiled:
    """The kernel that clips samples of this dtype."""
    name, sums = stem("clipped", g_dtype), memory.accumulator(g_dtype)
    if device == "cpu":
        functions, constants = cpu_functions(g_dtype, clips=True)
        parts = {"functions": functions, "fold": cpu_tree.fold_text("device", _add_rows(sums)), "sums": sums}
        parts["depth"] = cpu_tree.depth_text("stop - start")
        constants |= tree_constants(sums) | {
            "ROW_BYTES": 8 * 4,
            "LANES": simd.lanes(sums),
            "BLOCK": CPU_VECTORS * simd.lanes(sums),
        }
        constants |= {"load_vector": f"simd.load({sums!r})", "store_vector": f"simd.store({sums!r})"}
        return module(name, device, CPU, parts, constants, cpu_tree.imports(sums, names=("root",))).clipped
    functions, constants = cuda_functions(g_dtype, clips=True)
    size = memory.itemsize(sums)
    together, count = 16 // size, _sums(size)
    add, share = [], []
    for first in range(0, count, together):
        # What is read beyond a sample's places is never stored.
        adds = [f"s{k} = fma(c, shared[at + {k} * threads], s{k})" for k in range(first, first + together)]
        add += [
            f"if {first} * threads < pitch:",
            "    at = thread",
            "    for k in range(samples):",
            "        c = c_of[k]",
        ]
        add += [*(f"        {line}" for line in adds), "        at += np.int32(pitch)"]
        share += [
            f"if {k} * threads < pitch: shared[{k} * threads + thread] = s{k}" for k in range(first, first + together)
        ]
    parts = {
        "functions": functions,
        "sums": sums,
        "clear_sums": "\n".join(f"s{k} = zero" for k in range(count)),
        "add_lanes": add_lanes(g_dtype, constants["LANES"], keep=True),
        "halve": CUDA_HALVE,
        "add_samples": "\n".join(add),
        "share_sums": "\n".join(share),
    }
    constants |= {"SQUARES": CUDA_BYTES // size, "SHARED": (CUDA_BYTES + CUDA_SQUARES) // size, "RADIX": RADIX}
    return module(name, device, CUDA, parts, constants | {"CHUNK_BYTES": 8 * 6, "RESIDENT": RESIDENT}).clipped


def _sums(size):
    """How many sums of this size a CUDA thread keeps."""
    return CUDA_SUMS * 4 // size


class Clipped:
    """The nodes of clipped samples of a dtype, whose tensors have these numbers of columns."""

    def __init__(self, device: str, xp: ModuleType, g_dtype: str, columns: tuple[int, ...]) -> None:
        self.device, self.g_dtype, self.columns = device, g_dtype, columns
        self.sums = memory.accumulator(g_dtype)
        self.size = memory.itemsize(self.sums)
        self.table, self.chunks = Buffer(xp), Buffer(xp)
        if device == "cpu":
            tree = Tree(columns, joint=True)
            self.items, self.nodes = (
                Buffer(xp, tree.items),
                Buffer(xp, tree.nodes[: 0 if len(tree.items) == 1 else None]),
            )
            self.row = tree_row(tree, self.items, self.nodes)
            self.job = Buffer(xp, self.row)
        else:
            self.widths = [-(-p // WIDTH) * WIDTH for p in columns]
            self.count = sum(-(-p // CHUNK) for p in columns)

    def segment(self, rows: int) -> int | None:
        """Rows of a node that one piece of work adds up, or None where reading twice is better."""
        if self.device == "cuda":
            fits = sum(self.widths) <= min(CUDA_BYTES // self.size, _sums(self.size) * 2 * BLOCK)
            fits = fits and 0 < self.count <= CUDA_SQUARES // (WIDTH * self.size)
            return RADIX if fits and rows > RADIX * (CUDA_NODES - 1) else None
        # Too few nodes: columns can be shared. And a single one is the root, whose -0 another fold from +0 would lose.
        if -(-rows // RADIX) < max(2, threads.num_threads()):
            return None
        segment = RADIX
        while rows > segment * RADIX * CPU_PIECES * threads.num_threads():
            segment *= RADIX
        return segment

    def prepare(self, matrices: list, rows: int, outs: list[int], max_norm: float, weights: int) -> Callable[[], None]:
        """The launch. outs: for each tensor, the address of a row of sums for each node."""
        segment, max_norm = self.segment(rows), np.dtype(self.sums).type(max_norm)
        compiled, lanes = kernel(self.device, self.g_dtype), simd.lanes(self.sums)
        if self.device == "cuda":
            return self._cuda(compiled, matrices, rows, outs, max_norm, weights)
        table = [(p, *m, out) for p, m, out in zip(self.columns, matrices, outs, strict=True)]
        self.table.set(np.array(table, np.int64))
        row_bytes = sum(self.columns) * memory.itemsize(self.g_dtype)
        group = max(1, min(segment, CPU_BYTES // max(1, row_bytes)))
        width = sum(-(-p // lanes) * lanes for p in self.columns)
        args = (self.table.address, len(self.columns), width, self.job.address, rows, segment, group, weights, max_norm)
        scratch = (int(self.row[-1]) + group + levels(min(rows, segment)) * width) * self.size
        return threads.Launch(compiled, args, -(-rows // segment), rows * row_bytes, scratch, keeps=self)

    def _cuda(self, compiled, matrices, rows, outs, max_norm, weights):
        places = np.cumsum([0, *self.widths])
        pitch = int(places[-1])
        table = [(p, place, out) for p, place, out in zip(self.columns, places, outs, strict=False)]
        self.table.set(np.array(table, np.int64))
        chunks = [
            (*m, start, min(CHUNK, p - start), place + start, start + CHUNK >= p)
            for p, m, place in zip(self.columns, matrices, places, strict=False)
            for start in range(0, p, CHUNK)
        ]
        self.chunks.set(np.array(chunks, np.int64))
        each = min(RADIX, CUDA_BYTES // (self.size * pitch), CUDA_SQUARES // (WIDTH * self.size * self.count))
        each = -(-RADIX // -(-RADIX // each))  # as many each time
        block = BLOCK if pitch <= _sums(self.size) * BLOCK else 2 * BLOCK
        args = (self.table.address, len(table), self.chunks.address, self.count, pitch, each, rows, weights, max_norm)
        return compiled.prepare(-(-rows // RADIX), block, *args, keeps=self)
