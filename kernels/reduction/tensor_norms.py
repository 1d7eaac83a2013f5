"""Norms of whole tensors, in one fixed tree, and what is made of them: the factor that clips, or the norms of a rule.

A chunk of 1024 elements has 128 lanes: lane l is the left fold by fma, from +0, of the squares of elements l,
l + 128, … of the chunk; lanes are added by halving (i with i + 64, then 32, … 1); chunks by the tree of radix 32 of
tree.py, and so are tensors, where their joint norm is wanted. Of a rule with norms this is the first phase: it squares
w and u.

`table` is that of update.py. `items` holds a row for every 32 chunks: (tensor, first element, place of their sums in
`sums`). `job` is the address of a row: the addresses of `sums`, of the nodes (first child, children, place) and of a
counter, how many items arrive there in all, the number of levels, and for each level its first node (and the end).
"""

import itertools
from functools import cache
from types import ModuleType

import numpy as np

from ..backend.geometry import CUDA_SHARED
from ..backend.limits import Limits
from ..backend.quantize import CODES_PER_SCALE
from ..codegen.element import Element, context_address
from ..codegen.module import accessors, fill, lanes_of, module, stem
from ..rules.rule import Flags, Rule
from .norm_tree import CHUNK, GROUP, WIDTH
from .tree import RADIX

ROWS = 1, 2  # whose loads a CUDA thread has outstanding: of many arrays, of one or two
RESIDENT = None, 768  # threads, by the same: what bounds the registers
LIMITS = Limits(threads=512)
assert GROUP % CODES_PER_SCALE == 0

FOLD = """
def fold_node(nodes, node, sums):
    first = load_int64(nodes, 3 * node)
    count = load_int64(nodes, 3 * node + 1)
    place = load_int64(nodes, 3 * node + 2)
    for k in range(SQUARES):
        total = zero
        for child in range(first, first + count):
            total = total + load_sum(sums, child * SQUARES + k)
        store_sum(sums, place * SQUARES + k, total)
""".strip()

CPU = """
$functions

@device
$fold

@jit(CODE, "void(int64, int64, int64, int64, int64, int64, int64)")
def norms(table, items, job, context, scratch, first, last):
    sums = load_int64(job, 0)
    for item in range(first, last):
        $item
        $clear_totals
        for low in range(start, stop, CHUNK):
            high = min(low + CHUNK, stop)
            for lane in range(SQUARES * WIDTH):
                store_sum(scratch, lane, zero)
            for base in range(low, high, WIDTH):
                for i in range(base, min(base + WIDTH, high)):
                    $element
            half = WIDTH
            while half > 1:
                half >>= 1
                for lane in range(half):
                    $halve
            $add_chunk
        $store_totals

@jit(CODE, "void(int64, int64, int64, int64, int64)")
def finish(job, context, scratch, first, last):
    sums = load_int64(job, 0)
    nodes = load_int64(job, 1)
    for node in range(load_int64(job, 5 + load_int64(job, 4))):
        fold_node(nodes, node, sums)
    $finish
"""

CUDA = """
$functions

@device
$fold

@jit("int64 int64 int64 int64", NAME, CODE, RESIDENT)
def norms(table, items, job, context):
    item = cuda.blockIdx.x
    sums = load_int64(job, 0)
    $item
    squares = cuda.shared.array(SHARED, sum_type)
    arrived = cuda.shared.array(1, np.int32)
    thread = np.int32(cuda.threadIdx.x)
    threads = np.int32(cuda.blockDim.x)
    is_aligned = ($any_address) & 15 == 0
    $clear_totals
    for pass_start in range(start, stop, PASS * CHUNK):
        # Neighbouring threads take neighbouring vectors, WIDTH elements in a row, and then those of the next row.
        task = thread
        while task < PASS * (WIDTH // LANES):
            chunk = task // (WIDTH // LANES)
            lane = task % (WIDTH // LANES) * LANES
            low = pass_start + chunk * CHUNK
            high = min(low + CHUNK, stop)
            i = low + lane
            $clear_lanes
            if is_aligned:
                while i + (ROWS - 1) * WIDTH + LANES <= high:
                    $element_lanes
                    i += ROWS * WIDTH
            while i < high:
                $element_each
                i += WIDTH
            $share_lanes
            task += threads
        cuda.syncthreads()
        bits = WIDTH_BITS
        while bits > 0:
            bits -= 1
            task = thread
            while task < PASS << bits:
                lane = (task >> bits) * WIDTH + (task & ((1 << bits) - 1))
                $halve
                task += threads
            cuda.syncthreads()
        if thread == 0:
            for chunk in range(min(PASS, (stop - pass_start + CHUNK - 1) // CHUNK)):
                $add_chunk
        cuda.syncthreads()
    if thread == 0:
        $store_totals
        # The fences order this block's sums before its arrival, and after it the loads of the last one to arrive.
        counter = load_int64(job, 2)
        wanted = np.int32(load_int64(job, 3))
        fence()
        arrived[0] = add_atomic(counter, np.int32(1)) - (wanted - np.int32(1))
        if arrived[0] == 0:
            add_atomic(counter, -wanted)
        fence()
    cuda.syncthreads()
    if arrived[0] != 0:
        return
    nodes = load_int64(job, 1)
    for level in range(load_int64(job, 4)):
        node = load_int64(job, 5 + level) + thread
        while node < load_int64(job, 6 + level):
            fold_node(nodes, node, sums)
            node += threads
        cuda.syncthreads()
    if thread == 0:
        $finish
"""

# The root is the last sum. A norm that is not finite makes everything NaN: norm - norm is then not 0.
CLIP = """
norm = sqrt(load_sum(sums, load_int64(nodes, 3 * load_int64(job, 5 + load_int64(job, 4)) - 1)))
max_norm = load_sum($max_norm, 0)
factor = one
if not norm <= max_norm:
    factor = max_norm / norm + (norm - norm)
store_sum($factor, 0, factor)
""".strip()


@cache
def kernels(
    device: str, rule: Rule, flags: Flags, dtypes: tuple[str, ...], options: tuple[str, ...] = (), joint: bool = False
) -> ModuleType:
    """The module of the norms of a rule, or, joint, of the gradients of a step before they are clipped.

    It has `norms`, and on the CPU `finish`, which follows the last of the launches that share a job.
    """
    options = tuple(option for option in options if not (joint and option == "clip_norm"))
    fields = Element(rule, dtypes, dict(flags), options)
    squares, names = ("u",), ("g",)
    if not joint:
        squares = ("w", "u")
        names = tuple(n for n in fields.names if n in ("w", "g", "master", *fields.taken(rule.norm)))
    lanes, size = lanes_of([fields.dtypes[n] for n in names]), np.dtype(fields.sums).itemsize
    on_cpu = device == "cpu"
    parts = {
        "functions": fields.functions("gradient" if joint else "norm"),
        "fold": FOLD,
        "item": fields.item(3, "GROUP", _skip(fields, on_cpu), norms=False),
        "clear_totals": "\n".join(f"total_{s} = zero" for s in squares),
        "finish": fill(CLIP, max_norm=context_address("max_norm"), factor=context_address("factor")).rstrip()
        if joint
        else "pass",
    }
    constants = fields.constants | {
        "ROW_BYTES": 8 * (1 + len(fields.columns)),
        "SQUARES": len(squares),
        "CHUNK": CHUNK,
        "WIDTH": WIDTH,
        "GROUP": GROUP,
        "LANES": lanes,
        "one": f"np.{fields.sums}(1)",
    }
    constants |= accessors(dtypes, fields.sums, None if on_cpu else lanes)
    if on_cpu:
        parts |= _cpu(fields, squares)
    else:
        chunks = min(RADIX, 2 * CUDA_SHARED // (len(squares) * WIDTH * size))
        constants |= {
            "PASS": chunks,
            "ROWS": ROWS[len(names) <= 2],
            "RESIDENT": RESIDENT[len(names) <= 2],
            "SHARED": len(squares) * chunks * WIDTH,
            "sum_type": f"np.{fields.sums}",
            "WIDTH_BITS": WIDTH.bit_length() - 1,
        }
        parts |= _cuda(fields, squares, names, lanes, chunks)
    name = stem(
        "norms", "joint" if joint else "", rule.name, *rule.copies, *(f for f, on in flags if on), *options, *dtypes
    )
    return module(name, device, CPU if on_cpu else CUDA, parts, constants)


def _skip(fields, on_cpu):
    if "found_inf" not in fields.options:
        return ""
    return f"if load_float32({context_address('found_inf')}, 0) == 1:\n    {'continue' if on_cpu else 'return'}"


def _element(fields, squares, old, index, suffix=""):
    """(lines that make u and the early states, their values to store, the value of each square)."""
    if squares == ("u",):
        return [], {}, {"u": fields.gradient(old)}
    lines, stored = fields.direction(old, index, suffix)
    return lines, stored, {"w": old.get("master", old["w"]), "u": f"u{suffix}"}


def _cpu(fields, squares):
    lines, stored, values = _element(fields, squares, {n: fields.load(n, "i") for n in fields.names}, "i")
    lines += [f"store_{fields.dtypes[n]}({n}_at, i, {value})" for n, value in stored.items()]
    halve = []
    for k, s in enumerate(squares):
        at = f"{k} * WIDTH + i - base"
        lines += [f"square_{s} = {values[s]}"]
        lines += [f"store_sum(scratch, {at}, fma(square_{s}, square_{s}, load_sum(scratch, {at})))"]
        at = f"{k} * WIDTH + lane"
        halve.append(f"store_sum(scratch, {at}, load_sum(scratch, {at}) + load_sum(scratch, {at} + half))")
    return {
        "element": "\n".join(lines),
        "halve": "\n".join(halve),
        "add_chunk": "\n".join(
            f"total_{s} = total_{s} + load_sum(scratch, {k} * WIDTH)" for k, s in enumerate(squares)
        ),
        "store_totals": _store_totals(squares),
    }


def _store_totals(squares):
    place = "load_int64(items, 3 * item + 2) * SQUARES"
    return "\n".join(f"store_sum(sums, {place} + {k}, total_{s})" for k, s in enumerate(squares))


def _cuda(fields, squares, names, lanes, chunks):
    rows = range(ROWS[len(names) <= 2])
    vectors = [f"{n}{r} = load_{fields.dtypes[n]}_lanes({n}_at, i + {r} * WIDTH)" for r in rows for n in names]
    each, written = [], {}
    for r, k in itertools.product(rows, range(lanes)):
        old = {n: f"{n}{r}[{k}]" for n in fields.names}
        lines, stored, values = _element(fields, squares, old, f"i + {r} * WIDTH + {k}", f"_{r}_{k}")
        vectors += lines
        for n, value in stored.items():
            written.setdefault((n, r), []).append(value)
        vectors += _square(squares, values, k)
    for (n, r), values in written.items():
        vectors.append(f"store_{fields.dtypes[n]}_lanes({n}_at, i + {r} * WIDTH, ({', '.join(values)}))")
    for k in range(lanes):
        old = {n: fields.load(n, f"i + {k}") for n in fields.names}
        lines, stored, values = _element(fields, squares, old, f"i + {k}")
        lines += [f"store_{fields.dtypes[n]}({n}_at, i + {k}, {value})" for n, value in stored.items()]
        each += [f"if i + {k} < high:", *(f"    {line}" for line in lines + _square(squares, values, k))]
    share, halve, add = [], [], []
    for j, s in enumerate(squares):
        first = j * chunks * WIDTH
        share += [f"squares[{first} + chunk * WIDTH + lane + {k}] = s_{s}_{k}" for k in range(lanes)]
        halve.append(f"squares[{first} + lane] = squares[{first} + lane] + squares[{first} + lane + (1 << bits)]")
        add.append(f"total_{s} = total_{s} + squares[{first} + chunk * WIDTH]")
    return {
        "any_address": " | ".join(f"{n}_at" for n in names),
        "clear_lanes": "\n".join(f"s_{s}_{k} = zero" for s in squares for k in range(lanes)),
        "element_lanes": "\n".join(vectors),
        "element_each": "\n".join(each),
        "share_lanes": "\n".join(share),
        "halve": "\n".join(halve),
        "add_chunk": "\n".join(add),
        "store_totals": _store_totals(squares),
    }


def _square(squares, values, k):
    lines = [[f"square_{s} = {values[s]}", f"s_{s}_{k} = fma(square_{s}, square_{s}, s_{s}_{k})"] for s in squares]
    return [line for pair in lines for line in pair]
