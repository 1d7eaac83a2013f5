"""The gradient noise scale of a batch, from the mean and the variance of its samples: sums over all their elements.

trace is the sum of the variances, square that of the squares of the means, both in the tree of tensor_norms.py, for all
tensors together. `table` holds a row a tensor: its size, the addresses of mean and variance; `context` the number of
samples and where the scale goes.
"""

from collections.abc import Sequence
from functools import cache, lru_cache
from types import ModuleType

import numpy as np

from ..backend import memory, threads
from ..backend.buffers import Buffer, address_of
from ..backend.geometry import BLOCK, CUDA_SHARED
from ..backend.limits import Limits
from ..codegen.module import accessors, lanes_of, module, stem
from ..reduction.norm_tree import CHUNK, GROUP, WIDTH, Tree
from ..reduction.tensor_norms import CPU, CUDA, FOLD
from ..reduction.tree import RADIX

SUMS = {"trace": "{before} + {variance}", "square": "fma({mean}, {mean}, {before})"}
ROWS = 2  # of elements, whose loads a CUDA thread has outstanding
LIMITS = Limits(threads=512)

ITEM = """
row = table + 24 * load_int64(items, 3 * item)
start = load_int64(items, 3 * item + 1)
stop = min(start + GROUP, load_int64(row, 0))
mean_at = load_int64(row, 1)
variance_at = load_int64(row, 2)
""".strip()

# The root is the last place. Of |mean|^2, trace / samples is what the noise adds to the square of the true gradient.
FINISH = """
place = 2 * load_int64(nodes, 3 * load_int64(job, 5 + load_int64(job, 4)) - 1)
trace = load_sum(sums, place)
true_square = load_sum(sums, place + 1) - trace / sum_type(load_int64(context, 0))
store_sum(load_int64(context, 1), 0, trace / true_square)
""".strip()


def _each(text, **counts):
    """The text for each of the two sums, and for each number below the counts."""
    lines = [text.replace("{sum}", name).replace("{s}", str(s)) for s, name in enumerate(SUMS)]
    for name, count in counts.items():
        lines = [line.replace(f"{{{name}}}", str(k)) for k in range(count) for line in lines]
    return "\n".join(lines)


def _added(before, mean, variance):
    """name of a sum -> the text of it after this element; {sum} in `before` is the name."""
    return {n: t.format(before=before.replace("{sum}", n), mean=mean, variance=variance) for n, t in SUMS.items()}


@cache
def kernels(device: str, sums: str) -> ModuleType:
    """The module with the kernel `norms`, of means and variances of this dtype, and on the CPU `finish`."""
    constants = {
        "SQUARES": len(SUMS),
        "CHUNK": CHUNK,
        "WIDTH": WIDTH,
        "GROUP": GROUP,
        "zero": f"np.{sums}(0)",
        "sum_type": f"np.{sums}",
    }
    parts = {
        "functions": "",
        "fold": FOLD,
        "item": ITEM,
        "clear_totals": _each("total_{sum} = zero"),
        "store_totals": _each("store_sum(sums, load_int64(items, 3 * item + 2) * SQUARES + {s}, total_{sum})"),
        "finish": FINISH,
    }
    if device == "cpu":
        at = "load_sum(scratch, {s} * WIDTH + lane"
        element = _added("load_sum(scratch, lane_{sum})", "load_sum(mean_at, i)", "load_sum(variance_at, i)")
        lines = [(f"lane_{n} = {s} * WIDTH + i - base", n, text) for s, (n, text) in enumerate(element.items())]
        parts |= {
            "element": "\n".join(f"{place}\nstore_sum(scratch, lane_{n}, {text})" for place, n, text in lines),
            "halve": _each(f"store_sum(scratch, {{s}} * WIDTH + lane, {at}) + {at} + half))"),
            "add_chunk": _each("total_{sum} = total_{sum} + load_sum(scratch, {s} * WIDTH)"),
        }
        return module(stem("noise", sums), device, CPU, parts, constants | accessors({sums}, sums))
    lanes = lanes_of({sums})
    chunks = min(RADIX, CUDA_SHARED // (len(SUMS) * WIDTH * memory.itemsize(sums)))
    constants |= accessors({sums}, sums, lanes) | {
        "LANES": lanes,
        "PASS": chunks,
        "ROWS": ROWS,
        "RESIDENT": None,
        "SHARED": len(SUMS) * chunks * WIDTH,
        "WIDTH_BITS": WIDTH.bit_length() - 1,
    }
    loads = [f"{n}{r} = load_sum_lanes({n}_at, i + {r} * WIDTH)" for r in range(ROWS) for n in ("mean", "variance")]
    vectors, each = [load.replace("load_sum", f"load_{sums}") for load in loads], []
    for k in range(lanes):
        for r in range(ROWS):
            added = _added(f"s_{{sum}}_{k}", f"mean{r}[{k}]", f"variance{r}[{k}]")
            vectors += [f"s_{n}_{k} = {text}" for n, text in added.items()]
        added = _added(f"s_{{sum}}_{k}", f"load_sum(mean_at, i + {k})", f"load_sum(variance_at, i + {k})")
        each += [f"if i + {k} < high:", *(f"    s_{n}_{k} = {text}" for n, text in added.items())]
    at = "squares[{s} * PASS * WIDTH + "
    parts |= {
        "any_address": "mean_at | variance_at",
        "clear_lanes": _each("s_{sum}_{k} = zero", k=lanes),
        "element_lanes": "\n".join(vectors),
        "element_each": "\n".join(each),
        "share_lanes": _each(f"{at}chunk * WIDTH + lane + {{k}}] = s_{{sum}}_{{k}}", k=lanes),
        "halve": _each(f"{at}lane] = {at}lane] + {at}lane + (1 << bits)]"),
        "add_chunk": _each(f"total_{{sum}} = total_{{sum}} + {at}chunk * WIDTH]"),
    }
    return module(stem("noise", sums), device, CUDA, parts, constants)


@lru_cache(maxsize=8)
def _tree(sizes):
    return Tree(sizes, joint=True)


class Noise:
    """The tables of tensors of these sizes, laid out before anything is launched, since sending them may wait."""

    def __init__(
        self,
        device: str,
        xp: ModuleType,
        sums: str,
        rows: int,
        sizes: Sequence[int],
        means: Sequence[int],
        variances: Sequence[int],
        out: int,
    ) -> None:
        tree = _tree(tuple(sizes))
        self.device, self.sums, self.nbytes = device, sums, 2 * sum(sizes) * memory.itemsize(sums)
        self.roots, self.counter = xp.empty(2 * tree.places, sums), xp.zeros(1, np.int32)
        self.table = Buffer(xp, np.array([*zip(sizes, means, variances, strict=True)], np.int64))
        self.items, self.nodes = Buffer(xp, tree.items), Buffer(xp, tree.nodes)
        at = address_of(self.roots), self.nodes.address, address_of(self.counter)
        self.job, self.context = Buffer(xp, tree.job(*at, len(tree.items))), Buffer(xp, np.array([rows, out], np.int64))

    def launch(self) -> None:
        """The scale of what the means and variances hold by then; on CUDA it does not wait."""
        compiled, count = kernels(self.device, self.sums), len(self.items)
        args = (self.table.address, self.items.address, self.job.address, self.context.address)
        if self.device == "cuda":
            compiled.norms.launch(count, BLOCK, *args)
        else:
            scratch_bytes = 2 * WIDTH * memory.itemsize(self.sums)
            launch = threads.Launch(compiled.norms, args, count, self.nbytes, scratch_bytes)
            threads.whole([launch, threads.Launch(compiled.finish, args[2:], 1, 0)])
