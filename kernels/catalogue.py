"""Every CUDA kernel there is, by name and dtype: what the machine-code gate, the static report and the tests go over.

A row comes from a rule and its flags or from a family, so that a new rule is listed by itself. Flags other than none
are listed for float32, weights with one rule: what they add does not depend on the dtype, or on the rule. So does a
reduction add the same to every rule: with all of them it is listed for float32, with two for every dtype.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

from . import (
    accumulate,
    advance,
    clipped,
    coded,
    fused,
    layers,
    memory,
    moments,
    noise,
    norms,
    one_pass,
    ranks,
    reduce,
    rules,
    sample_norms,
    update,
)
from .fields import OPTIONS
from .limits import Limits
from .rule import keeping

DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Row:
    """A kernel for one dtype, that of w, g and G; sums have memory.accumulator(dtype), and so has most state."""

    name: str
    dtype: str
    limits: Limits
    build: Callable

    @property
    def label(self):
        return f"{self.name}.{self.dtype}"

    @cached_property
    def kernel(self):
        """The Kernel, built when first asked for."""
        return self.build(self.dtype)


def flags_of(rule):
    """Every combination of a rule's flags, as ((name, bool), …); the first has none on."""
    return [tuple(zip(rule.flags, on, strict=True)) for on in itertools.product((False, True), repeat=len(rule.flags))]


def _rows(name, limits, build, dtypes=DTYPES):
    return [Row(name, dtype, limits, build) for dtype in dtypes]


def _state(rule, dtype):
    return (memory.accumulator(dtype),) * len(rule.state)


def _update(rule):
    for k, flags in enumerate(flags_of(rule)):

        def build(dtype, flags=flags):
            return update.kernel("cuda", rule, flags, (dtype, dtype, *_state(rule, dtype)))

        dtypes = ("float32",) if k else DTYPES
        yield from _rows("_".join([rule.name, *(name for name, on in flags if on)]), update.LIMITS, build, dtypes)


# Other ways to store state, and what else a step may do: for which dtypes, states kept, state's dtype, options.
_VARIANTS = {
    "bfloat16_state": (("bfloat16", "float32"), (), "bfloat16", ()),
    "codes": (("float32",), (), "uint8", ()),
    "codes_at_random": (("bfloat16",), (), "uint8", ("at_random",)),
    "at_random": (("float16", "bfloat16"), (), None, ("at_random",)),
    "kept": (("float16", "bfloat16"), ("master", "ema"), None, ()),
    "around": (("bfloat16", "float32"), (), None, OPTIONS[:-1]),
}


def _stored(rule, dtype, state_dtype):
    """The dtypes of (w, g, *rule.states)."""
    codes = ["unsigned8" if n in rule.nonnegative else "signed8" for n in rule.state]
    state = codes if state_dtype == "uint8" else [state_dtype or memory.accumulator(dtype)] * len(rule.state)
    return (dtype, dtype, *[memory.accumulator(dtype)] * len(rule.kept), *state)


def _variants(rule):
    for name, (dtypes, kept, state_dtype, options) in _VARIANTS.items():

        def build(dtype, kept=kept, state_dtype=state_dtype, options=options):
            kept = keeping(rule, kept)
            return update.kernel("cuda", kept, flags_of(rule)[0], _stored(kept, dtype, state_dtype), options)

        limits = coded.limits(len(rule.state)) if state_dtype == "uint8" else update.LIMITS
        yield from _rows(f"{rule.name}_{name}", limits, build, dtypes)


def _norms(rule, joint):
    def build(dtype):
        return norms.kernels("cuda", rule, flags_of(rule)[0], _stored(rule, dtype, None), (), joint).norms

    return _rows(f"{rule.name}_{'joint_norm' if joint else 'norms'}", norms.LIMITS, build)


def _reduce_update(rule, weighted, suffix):
    def build(dtype):
        return fused.kernel("cuda", rule, flags_of(rule)[0], (dtype, *_state(rule, dtype)), dtype, weighted)

    dtypes = DTYPES if rule.name in ("momentum", "adam") else ("float32",)
    return _rows(f"reduce_update_{rule.name}{suffix}", reduce.LIMITS, build, dtypes)


def _advance(rule):
    build = partial(advance.kernel, "cuda", rule)
    return _rows(f"advance_{rule.name}", advance.LIMITS, build, ("float32", "float64")) if rule.step else []


def _reduce(weighted, suffix):
    return _rows(f"reduce{suffix}", reduce.LIMITS, lambda dtype: reduce.kernel("cuda", dtype, weighted))


def _accumulate(weighted, suffix):
    return _rows(f"accumulate{suffix}", accumulate.LIMITS, lambda d: accumulate.kernels("cuda", d, weighted).add)


def _statistics():
    yield from _rows("moments", moments.LIMITS, lambda dtype: moments.kernels("cuda", dtype).fold)
    for name, limits, build in (
        ("moments_merge", moments.MERGE_LIMITS, lambda dtype: moments.kernels("cuda", dtype).merge),
        ("noise", noise.LIMITS, lambda dtype: noise.kernels("cuda", dtype).norms),
    ):
        yield from _rows(name, limits, build, ("float32", "float64"))
    for family, held in itertools.product(ranks.FAMILIES, (True, False)):
        build = partial(ranks.kernel, "cuda", family, held=held)
        yield from _rows(f"{family}{'' if held else '_again'}", ranks.LIMITS, build)


def _layers():
    for name, limits, build in layers.catalogue():
        yield from _rows(name, limits, build, ("float32", "float64"))


def _one_pass():
    for row in one_pass.catalogue():
        yield from _rows(*row)


def of_rule(rule):
    """The rows of a rule's kernels, as the catalogue lists them without weights or variants."""
    last = _norms(rule, joint=False) if rule.norm else _reduce_update(rule, False, "")
    return [*_update(rule), *_advance(rule), *last]


def _all():
    for rule in rules.RULES.values():
        yield from _update(rule)
        yield from _advance(rule)
        if rule.norm:
            yield from _norms(rule, joint=False)
    for name in ("momentum", "adam"):
        yield from _variants(rules.RULES[name])
    yield from _norms(rules.RULES["momentum"], joint=True)
    for weighted, suffix in ((False, ""), (True, "_weighted")):
        yield from _reduce(weighted, suffix)
        for rule in [rules.RULES["momentum"]] if weighted else [r for r in rules.RULES.values() if not r.norm]:
            yield from _reduce_update(rule, weighted, suffix)
        yield from _accumulate(weighted, suffix)
    yield from _rows("sample_norms", sample_norms.LIMITS, lambda d: sample_norms.kernels("cuda", d).norms)
    yield from _rows("clip_factors", sample_norms.LIMITS, lambda d: sample_norms.kernels("cuda", d, clips=True).norms)
    yield from _rows("clipped", clipped.LIMITS, lambda dtype: clipped.kernel("cuda", dtype))
    yield from _rows("collect", accumulate.COLLECT_LIMITS, lambda dtype: accumulate.kernels("cuda", dtype).collect)
    yield from _statistics()
    yield from _layers()
    yield from _one_pass()


ROWS = tuple(_all())
