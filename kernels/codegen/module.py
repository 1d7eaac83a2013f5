"""Modules of generated kernels: their constants, and the text that fills their skeletons."""

import re
from collections.abc import Iterable
from string import Template
from types import ModuleType
from typing import Any

from ..backend import generated, memory
from .element import storage_dtype

Compiled = Any
HOMES = {"cpu": "gdgpu.kernels.backend.cpu", "cuda": "gdgpu.kernels.backend.cuda"}
_KERNEL = re.compile(r"(?m)(^@jit\(.*\)\ndef .*:\n)((?:(?: .*)?\n)+)")


def fill(skeleton: str, **parts: str) -> str:
    """The skeleton with each $part replaced; every line of a part gets the indent of the $part's line."""
    lines = []
    for line in skeleton.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        text = Template(line.lstrip()).substitute(parts)
        lines += [indent + part if part else "" for part in text.split("\n")]
    return "\n".join(lines) + "\n"


def accessors(dtypes: Iterable[str], sums: str, lanes: int | None = None) -> dict[str, str]:
    """Constants load_DTYPE and store_DTYPE (and …_lanes) of a generated module; load_sum for the dtype of sums."""
    constants = {}
    for dtype in sorted({*map(storage_dtype, dtypes), sums, "int64"}):
        for verb in ("load", "store"):
            constants[f"{verb}_{dtype}"] = f"{verb}({dtype!r})"
            if lanes and dtype != "int64":
                constants[f"{verb}_{dtype}_lanes"] = f"{verb}({dtype!r}, {lanes})"
    return constants | {"load_sum": f"load_{sums}", "store_sum": f"store_{sums}"}


def lanes_of(dtypes: Iterable[str]) -> int:
    """Elements a thread takes at once: 16 bytes of the narrowest array."""
    return max(memory.VECTOR_BYTES // memory.itemsize(storage_dtype(d)) for d in dtypes)


def stem(family: str, *parts: str) -> str:
    """A readable name for a generated module, e.g. update_heavy_ball_nesterov_float32_cpu."""
    return "_".join(dict.fromkeys([family, *(p for p in parts if p)]))


def module(
    name: str, device: str, skeleton: str, parts: dict[str, str], constants: dict, imports: Iterable = ()
) -> ModuleType:
    """Fill the skeleton and load it for "cpu" or "cuda". imports: generated modules and names, see generated.load."""
    text, constants = fill(skeleton, **parts), constants | {"NAME": repr(name)}
    if device == "cpu":  # whatever the thread that calls has set: flushing to zero, another rounding
        text = _KERNEL.sub(r"\1    modes = standard_modes()\n\2    restore_modes(modes)\n", text)
    return generated.load(f"{name}_{device}", text, constants, HOMES[device], imports)
