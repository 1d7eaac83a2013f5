"""A rule over flat arrays: w, *state <- rule(w, g, *state, *hyper), every byte read once and written once.

One call updates any number of tensors. `table` holds a row of int64 a tensor, (n, address of w, of g, of each
state); `items` a row a chunk, (tensor, first element); `hyper` a row of scalars a tensor.
"""

from functools import cache

import numpy as np

from . import threads
from .limits import Limits
from .text import Fields, accessors, lanes_of, module, stem

CPU_CHUNK = 1 << 16  # elements: a few hundred KiB of work, small enough to share out evenly
CUDA_CHUNK = 1 << 14
LIMITS = Limits(threads=1024)

CPU = """
@jit(CACHING)
$rule

@jit(CACHING, "void(int64, int64, int64, int64, int64, int64)")
def update(table, items, hyper, scratch, first, last):
    for item in range(first, last):
        tensor = load_int64(items, 2 * item)
        start = load_int64(items, 2 * item + 1)
        row = table + tensor * ROW_BYTES
        stop = min(start + CHUNK, load_int64(row, 0))
        $addresses
        $hyper
        for i in range(start, stop):
            $update
"""

CUDA = """
@device
$rule

@jit("void(int64, int64, int64)")
def update(table, items, hyper):
    item = cuda.blockIdx.x
    tensor = load_int64(items, 2 * item)
    start = load_int64(items, 2 * item + 1)
    row = table + tensor * ROW_BYTES
    stop = min(start + CHUNK, load_int64(row, 0))
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
    constants = fields.constants | {"ROW_BYTES": 8 * (1 + len(dtypes))}
    parts = {
        "rule": fields.rule,
        "addresses": fields.addresses(fields.names, column=1),
        "hyper": fields.hyper(),
        "update": fields.update(),
    }
    if device == "cpu":
        skeleton = CPU
        constants |= {"CHUNK": CPU_CHUNK} | accessors(dtypes, fields.sums)
    else:
        skeleton, lanes = CUDA, lanes_of(dtypes)
        constants |= {"CHUNK": CUDA_CHUNK, "LANES": lanes} | accessors(dtypes, fields.sums, lanes)
        parts["any_address"] = " | ".join(f"{n}_at" for n in fields.names)
        parts["update_lanes"] = fields.update_lanes(lanes)
    name = stem("update", rule.name, *(f for f, on in flags if on), *dtypes)
    return module(name, device, skeleton, parts, constants).update


def plan(device, sizes):
    """The items of work for tensors of these sizes: a row (tensor, first element) a chunk."""
    sizes = np.asarray(sizes, np.int64)
    chunk = CPU_CHUNK if device == "cpu" else CUDA_CHUNK
    counts = -(-sizes // chunk)
    tensors = np.repeat(np.arange(len(sizes)), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([tensors, (np.arange(len(tensors)) - first) * chunk], axis=1)


def launch(device, compiled, table, items, hyper, nbytes):
    """Run a kernel over items; table, items and hyper are Buffers of that device."""
    if device == "cpu":
        threads.run(compiled, (table.address, items.address, hyper.address), len(items), nbytes)
    else:
        from .target import BLOCK

        compiled.launch(len(items), BLOCK, table.address, items.address, hyper.address)
