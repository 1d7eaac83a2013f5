"""Modules of generated kernels: their constants, and the text that fills their skeletons."""

import re

from . import generate, memory
from .fields import held_as

HOMES = {"cpu": "gdgpu.kernels.cpu", "cuda": "gdgpu.kernels.target"}
_KERNEL = re.compile(r"(?m)(^@jit\(.*\)\ndef .*:\n)((?:(?: .*)?\n)+)")


def accessors(dtypes, sums, lanes=None):
    """Constants load_DTYPE and store_DTYPE (and …_lanes) of a generated module; load_sum for the dtype of sums."""
    constants = {}
    for dtype in sorted({*map(held_as, dtypes), sums, "int64"}):
        for verb in ("load", "store"):
            constants[f"{verb}_{dtype}"] = f"{verb}({dtype!r})"
            if lanes and dtype != "int64":
                constants[f"{verb}_{dtype}_lanes"] = f"{verb}({dtype!r}, {lanes})"
    return constants | {"load_sum": f"load_{sums}", "store_sum": f"store_{sums}"}


def lanes_of(dtypes):
    """Elements a thread takes at once: 16 bytes of the narrowest array."""
    return max(memory.VECTOR_BYTES // memory.itemsize(held_as(d)) for d in dtypes)


def stem(family, *parts):
    """A readable name for a generated module, e.g. update_heavy_ball_nesterov_float32_cpu."""
    return "_".join(dict.fromkeys([family, *(p for p in parts if p)]))


def module(name, device, skeleton, parts, constants, imports=()):
    """Fill the skeleton and load it for "cpu" or "cuda". imports: generated modules and names, see generate.load."""
    text, constants = generate.fill(skeleton, **parts), constants | {"NAME": repr(name)}
    if device == "cpu":  # whatever the thread that calls has set: flushing to zero, another rounding
        text = _KERNEL.sub(r"\1    modes = standard_modes()\n\2    restore_modes(modes)\n", text)
    return generate.load(f"{name}_{device}", text, constants, HOMES[device], imports)
