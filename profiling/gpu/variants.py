"""Variants of the CUDA kernels: constants and cache hints that a GPU may like better, and what they are tried on."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import cases
from cases.optimizers import OPTIMIZERS
from peers import Arrays

from gdgpu import devices
from gdgpu.kernels import launch
from gdgpu.kernels.backend.buffers import address_of
from gdgpu.kernels.backend.threads import whole
from gdgpu.kernels.launch import Job, Reduction
from gdgpu.kernels.models import linear, linear_job
from gdgpu.kernels.optimizers import update
from gdgpu.kernels.reduction import plan, reduce, tree
from gdgpu.kernels.samples import clip_reduce, sample_norms
from gdgpu.kernels.samples.sample_norms import SampleNorms
from gpu import hints

USUAL = "as it is"
KEEPING = ("kernel", "kernels", "split_cuda")  # functions of gdgpu.kernels that keep what they return
SEEN = 1 << 20  # elements of a result that are compared


@contextmanager
def replaced(*changes: tuple[object, str, object]) -> Iterator[None]:
    """(owner, name, value): what stands for something else in the block. AttributeError where there is no such name."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    try:
        for change in changes:
            setattr(*change)
        yield
    finally:
        for change in before:
            setattr(*change)


@dataclass(frozen=True)
class Variant:
    """changes: (module, constant, value); hint: of hints.HINTS."""

    name: str
    changes: tuple = ()
    hint: str | None = None

    @contextmanager
    def applied(self) -> Iterator[None]:
        """In the block kernels are planned, and made, as the variant says."""
        changes = self.changes + (hints.changes(self.hint) if self.hint else ())
        forget_kernels()
        try:
            with replaced(*changes):
                yield
        finally:
            forget_kernels()


def forget_kernels() -> None:
    """Plans and kernels that were made with other constants."""
    for name, module in list(sys.modules.items()):
        if name.startswith("gdgpu.kernels."):
            for maker in KEEPING:
                if hasattr(made := vars(module).get(maker), "cache_clear"):
                    made.cache_clear()


def _set(label, module, constant, *values):
    return [Variant(label.format(value), ((module, constant, value),)) for value in values]


def _chunks(powers, hint=None):
    least, _ = update.CUDA_CHUNKS
    label = "chunk 2^{}" + (f", {hint}" if hint else "")
    return [Variant(label.format(k), ((update, "CUDA_CHUNKS", (least, 1 << k)),), hint) for k in powers]


def _one_pass(rows, block, segments=None):
    changes = [(linear_job, "ROWS", rows), (linear_job, "BLOCK", block)]
    if segments:
        changes.append((linear, "SEGMENTS", linear.SEGMENTS | {"cuda": segments}))
    return Variant(f"{rows} rows, block {block}" + f", {segments} segments" * bool(segments), tuple(changes))


HINTS = [Variant(hint, (), hint) for hint in hints.HINTS]
UPDATE = [
    Variant(USUAL),
    *_chunks((13, 15, 16, 17)),
    *_set("block {}", update, "BLOCK", 128, 512),
    *HINTS,
    *_chunks((16,), "streaming"),
]
FUSED = [
    Variant(USUAL),
    *_set("block {}", launch, "BLOCK", 128, 512),
    Variant("8 loads", ((tree, "CUDA_LOADS", (8, 16)),)),
    Variant("resident 768", ((reduce, "RESIDENT", dict.fromkeys(reduce.RESIDENT, 768)),)),
    *HINTS,
]
REDUCE = FUSED[:1] + _set("{} blocks wanted", plan, "CUDA_BLOCKS", 256, 512, 1024, 4096) + FUSED[1:]
NORMS = [
    Variant(USUAL),
    *_set("{} blocks wanted", sample_norms, "CUDA_BLOCKS", 512, 1024, 4096),
    *_set("block {}", sample_norms, "BLOCK", 128, 512),
    *_set("resident {}", sample_norms, "RESIDENT", 512),
    Variant("no_allocate", (), "no_allocate"),
]
CLIP = [
    Variant(USUAL),
    *_set("block {}", clip_reduce, "BLOCK", 128),
    *_set("resident {}", clip_reduce, "RESIDENT", 768),
]
MODEL = [
    Variant(USUAL),
    *_set("{} rows", linear_job, "ROWS", 2, 4),
    *_set("block {}", linear_job, "BLOCK", 256, 512),
    _one_pass(2, 512),
    _one_pass(4, 256, 264),
    _one_pass(2, 512, 264),
]


def _step(arrays, case):
    """A bound step, and its first parameters."""
    w, g = arrays.parameters(cases.parse_size(case.kind, case.size))
    return OPTIMIZERS[case.kind].bound(w, g), lambda: w[0][:SEEN]


def _samples(arrays, case, clips=False):
    """A bound step with the mean of the samples, clipped or not."""
    rows, columns = cases.parse_size(case.kind, case.size)
    w, G = arrays.normal(columns), arrays.normal(rows, columns)
    how = {"max_norm": columns**0.5} if clips else {}
    return OPTIMIZERS["momentum"].bound(w, G, samples=True, **how), lambda: w[:SEEN]


def _sums(arrays, case):
    """Sums of columns, laid out once: what a call takes of the host does not count here."""
    rows, columns = cases.parse_size(case.kind, case.size)
    G, out = arrays.normal(rows, columns), arrays.xp.empty(columns, arrays.sums)
    job = Job(G.dtype.name, rows, (columns,), [(address_of(G), columns)], [(address_of(out),)], 1.0)
    launches = Reduction("cuda", devices.resolve("cuda").xp, reduce.kernel).prepare(job)
    return lambda G=G: whole(launches), lambda: out[:SEEN]


def _norms(arrays, case):
    """Norms of rows, laid out once."""
    rows, columns = cases.parse_size(case.kind, case.size)
    G, out = arrays.normal(rows, columns), arrays.xp.empty(rows, arrays.sums)
    norms = SampleNorms("cuda", devices.resolve("cuda").xp, [G.dtype.name], [columns])
    launches = norms.prepare([(address_of(G), columns)], rows, address_of(out))
    return lambda G=G: whole(launches), lambda: out


def _model(arrays, case):
    """Loss and gradients, and the latter's first."""
    _, makers = case.problem(arrays)
    run = makers["gdgpu"]()
    return run, lambda: run()[1].ravel()[:SEEN]


# kind of a case: builder of (arrays, case), which returns the call and what gives its result
BUILDERS = {
    "momentum": _step,
    "adam": _step,
    "reduce": _sums,
    "reduce_update": _samples,
    "norms": _norms,
    "clip_update": partial(_samples, clips=True),
    "linear_gradient": _model,
    "softmax_gradient": _model,
}
TABLE = {  # case of cases.CASES: what is tried on it
    "momentum/1x2^28": UPDATE,
    "adam/1x2^28": UPDATE,
    "momentum/1000-mixed": UPDATE,
    "momentum/100x65536": UPDATE,
    "reduce/256x2^20": REDUCE,
    "reduce/4096x2^16": REDUCE,
    "reduce/65536x784": REDUCE,
    "reduce/2^20x64": REDUCE,
    "reduce_update/64x2^22": FUSED,
    "norms/65536x784": NORMS,
    "norms/4096x2^16": NORMS,
    "clip_update/65536x784": CLIP,
    "linear_gradient/40000x10000": MODEL,
    "softmax_gradient/60000x784": MODEL,
}


def pairs(words: Sequence[str] = ()) -> list[tuple[cases.Case, Variant]]:
    """[(case, variant)] in order; words: only cases whose names have one of these in them."""
    chosen = [name for name in TABLE if not words or any(word in name for word in words)]
    return [(cases.find(name), variant) for name in chosen for variant in TABLE[name]]


def find(name: str) -> tuple[cases.Case, Variant]:
    """The pair of a label. ValueError for any other name."""
    for pair in pairs():
        if label(*pair) == name:
            return pair
    raise ValueError(f"expected one of gpu_sweep.py --list, got {name!r}")


def label(case: cases.Case, variant: Variant) -> str:
    """One name for both."""
    return f"{case.name}, {variant.name}"


def built(arrays: Arrays, case: cases.Case) -> tuple[Callable, Callable]:
    """(the call, what gives its result): as the variant that is applied makes it."""
    return BUILDERS[case.kind](arrays, case)
