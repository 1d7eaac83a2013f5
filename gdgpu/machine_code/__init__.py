"""The machine code of CUDA kernels, inspected and held against limits on a machine with no GPU."""

from .gate import (
    ARCHITECTURES,
    Report,
    check,
    inspect,
    inspect_rows,
    inspect_rule,
    occupancy,
    require_tools,
)
from .tools import MissingToolError, tool

__all__ = [
    "ARCHITECTURES",
    "MissingToolError",
    "Report",
    "check",
    "inspect",
    "inspect_rows",
    "inspect_rule",
    "occupancy",
    "require_tools",
    "tool",
]
