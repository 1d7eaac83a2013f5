"""A rule over flat arrays: w, *state <- rule(w, g, *state, *hyper), every byte read once and written once.

One call updates any number of tensors. `table` holds a row of int64 a tensor: (n, addresses of its hyperparameters, of
w, g and each state); tensors may share hyperparameters. `items` holds a row a chunk: (tensor, first element).
"""

from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from . import threads
from .limits import Limits
from .text import Fields, accessors, lanes_of, module, stem
from .tree import BLOCK

CPU_CHUNK = 1 << 16  # elements: a few hundred KiB of work, small enough to share out evenly
CUDA_CHUNKS = 1 << 10, 1 << 14  # least and most elements of a block: one turn of its threads, and many
CUDA_BLOCKS = 1 << 10  # about what a GPU holds at once: below this, smaller chunks
LIMITS = Limits(threads=768)

CPU = """
@jit(CACHING)
$rule

@jit(CACHING, "void(int64, int64, int64, int64, int64, int64)")
def update(table, items, chunk, scratch, first, last):
    for item in range(first, last):
        tensor = load_int64(items, 2 * item)
        start = load_int64(items, 2 * item + 1)
        row = table + tensor * ROW_BYTES
        stop = min(start + chunk, load_int64(row, 0))
        $addresses
        $hyper
        for i in range(start, stop):
            $update
"""

CUDA = """
@device
$rule

@jit("int64 int64 int64", NAME, CODE)
def update(table, items, chunk):
    item = cuda.blockIdx.x
    tensor = load_int64(items, 2 * item)
    start = load_int64(items, 2 * item + 1)
    row = table + tensor * ROW_BYTES
    stop = min(start + chunk, load_int64(row, 0))
    $addresses
    $hyper
    i = start + cuda.threadIdx.x
    if ($any_address) & 15 == 0:
        i = start + cuda.threadIdx.x * LANES
        while i + LANES <= stop:
            $update_lanes
            i += cuda.blockDim.x * LANES
        i = stop - ((stop - start) & (LANES - 1)) + cuda.threadIdx.x
    while i < stop:
        $update
        i += cuda.blockDim.x
"""


@cache
def kernel(device, rule, flags, dtypes):
    """The kernel of a rule for "cpu" or "cuda", flags as ((name, bool), …), dtypes those of (w, g, *state)."""
    fields = Fields(rule, dtypes, dict(flags))
    constants = fields.constants | {"ROW_BYTES": 8 * (2 + len(dtypes))}
    parts = {
        "rule": fields.rule,
        "addresses": fields.addresses(("hyper", *fields.names), column=1),
        "hyper": fields.hyper(),
        "update": fields.update(),
    }
    if device == "cpu":
        skeleton = CPU
        constants |= accessors(dtypes, fields.sums)
    else:
        skeleton, lanes = CUDA, lanes_of(dtypes)
        constants |= {"LANES": lanes} | accessors(dtypes, fields.sums, lanes)
        parts["any_address"] = " | ".join(f"{n}_at" for n in fields.names)
        parts["update_lanes"] = fields.update_lanes(lanes)
    name = stem("update", rule.name, *(f for f, on in flags if on), *dtypes)
    return module(name, device, skeleton, parts, constants).update


@dataclass(frozen=True)
class Plan:
    """items: int64 rows (tensor, first element), a chunk of `chunk` elements each."""

    items: np.ndarray
    chunk: int


def plan(device, sizes):
    """How tensors of these sizes are cut into items of work."""
    sizes = np.asarray(sizes, np.int64)
    chunk = CPU_CHUNK
    if device == "cuda":
        least, most = CUDA_CHUNKS
        share = int(sizes.sum()) // CUDA_BLOCKS
        chunk = min(max(least, 1 << max(share - 1, 0).bit_length()), most)
    counts = -(-sizes // chunk)
    tensors = np.repeat(np.arange(len(sizes)), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    return Plan(np.stack([tensors, (np.arange(len(tensors)) - first) * chunk], axis=1), chunk)


def launcher(device, compiled, table, items, chunk, nbytes):
    """The call that runs a kernel over items; table and items are Buffers of that device and stay where they are."""
    args = (table.address, items.address, chunk)
    if device == "cpu":
        return partial(threads.run, compiled, args, len(items), nbytes)
    return compiled.prepare(len(items), BLOCK, *args)
