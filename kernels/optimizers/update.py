"""A rule over flat arrays: w, *state <- rule(w, g, *state, *hyper), every byte read once and written once.

One call updates any number of tensors. `table` holds a row of int64 a tensor: (n, addresses of its hyperparameters, of
w, g and each state); tensors may share hyperparameters. `items` holds a row a chunk: (tensor, first element). `context`
is the address of a row of addresses (element.STEP_CONTEXT) for what the step does besides; 0 where that is nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from ..backend import threads
from ..backend.buffers import Buffer
from ..backend.geometry import BLOCK
from ..backend.limits import Limits
from ..codegen.element import Element, context_address
from ..codegen.module import Compiled, accessors, fill, lanes_of, module, stem
from ..rules.rule import Flags, Rule
from . import quantized_update

CPU_CHUNK = 1 << 16  # elements: a few hundred KiB of work, small enough to share out evenly
CUDA_CHUNKS = 1 << 10, 1 << 14  # least and most elements of a block: one turn of its threads, and many
CUDA_BLOCKS = 1 << 10  # about what a GPU holds at once: below this, smaller chunks
LIMITS = Limits(threads=768)

CPU = """
$functions

@jit(CODE, "void(int64, int64, int64, int64, int64, int64, int64)")
def update(table, items, chunk, context, scratch, first, last):
    for item in range(first, last):
        $item
        $loop
"""

CPU_LOOP = """
for i in range(start, stop):
    $update
""".strip()

CUDA = """
$functions

@jit("int64 int64 int64 int64", NAME, CODE, RESIDENT)
def update(table, items, chunk, context):
    item = cuda.blockIdx.x
    $item
    $loop
"""

CUDA_LOOP = """
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
""".strip()

# A step that found_inf forbids leaves everything as it was, but for gradients that are to be zero.
CPU_SKIP = """
if load_float32($found_inf, 0) == 1:
    for i in range(start, stop):
        $zero
    continue
""".strip()
CUDA_SKIP = """
if load_float32($found_inf, 0) == 1:
    i = start + cuda.threadIdx.x
    while i < stop:
        $zero
        i += cuda.blockDim.x
    return
""".strip()


@cache
def kernel(device: str, rule: Rule, flags: Flags, dtypes: tuple[str, ...], options: tuple[str, ...] = ()) -> Compiled:
    """The kernel of a rule for "cpu" or "cuda": flags as ((name, bool), …), dtypes of (w, g, *rule.states), options
    some of element.OPTIONS."""
    fields = Element(rule, dtypes, dict(flags), options)
    lanes = lanes_of(dtypes)
    on_cpu = device == "cpu"
    parts = {
        "functions": fields.functions(),
        "item": fields.item(2, "chunk", _skip(fields, CPU_SKIP if on_cpu else CUDA_SKIP)),
        "loop": _loop(fields, on_cpu, lanes),
    }
    constants = fields.constants | {"ROW_BYTES": 8 * (1 + len(fields.columns)), "LANES": lanes}
    constants |= accessors(dtypes, fields.sums, None if on_cpu else lanes) | quantized_update.constants(fields, BLOCK)
    name = stem("update", rule.name, *rule.copies, *(f for f, on in flags if on), *options, *dtypes)
    return module(name, device, CPU if on_cpu else CUDA, parts, constants).update


def _skip(fields, text):
    if "found_inf" not in fields.options:
        return ""
    zero = "".join(fields.zero("i")) or "pass"
    return fill(text, found_inf=context_address("found_inf"), zero=zero).rstrip()


def _loop(fields, on_cpu, lanes):
    any_address = " | ".join(f"{n}_at" for n in fields.names)
    if fields.quantized:
        return quantized_update.loop(fields, on_cpu, lanes, any_address)
    parts = {"update": fields.update()}
    if not on_cpu:
        parts |= {"update_lanes": fields.update_lanes(lanes), "any_address": any_address}
    return fill(CPU_LOOP if on_cpu else CUDA_LOOP, **parts).rstrip()


@dataclass(frozen=True)
class Plan:
    """items: int64 rows (tensor, first element), a chunk of `chunk` elements each."""

    items: np.ndarray
    chunk: int


def plan(device: str, sizes: Sequence[int]) -> Plan:
    """How tensors of these sizes are cut into items of work. Chunks are multiples of a scale's codes."""
    sizes = np.asarray(sizes, np.int64)
    chunk = CPU_CHUNK
    if device == "cuda":
        smallest, largest = CUDA_CHUNKS
        share = int(sizes.sum()) // CUDA_BLOCKS
        chunk = min(max(smallest, 1 << max(share - 1, 0).bit_length()), largest)
    counts = -(-sizes // chunk)
    tensors = np.repeat(np.arange(len(sizes)), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    return Plan(np.stack([tensors, (np.arange(len(tensors)) - first) * chunk], axis=1), chunk)


def launcher(
    device: str, compiled: Compiled, table: Buffer, items: Buffer, chunk: int, nbytes: int, context: int = 0
) -> Callable[[], None]:
    """The launch of a kernel over items; table and items are Buffers of that device."""
    args = (table.address, items.address, chunk, context)
    if device == "cpu":
        return threads.Launch(compiled, args, len(items), nbytes, quantized_update.SCRATCH_BYTES, (table, items))
    return compiled.prepare(len(items), BLOCK, *args, keeps=(table, items))
