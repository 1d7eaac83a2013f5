"""The machine code of CUDA kernels, inspected and held against limits on a machine with no GPU."""

from .gate import (
    ARCHITECTURES,
    MissingToolError,
    Report,
    check,
    inspect,
    inspect_rows,
    inspect_rule,
    occupancy,
    require_tools,
    tool,
)

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
