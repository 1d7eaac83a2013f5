"""NVTX ranges around public operations, for nsys and ncu; functions stay as they are when no profiler listens."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

# NVIDIA's profilers set the first before the process starts; the second asks for ranges by hand.
LISTENED = bool(os.environ.get("NVTX_INJECTION64_PATH") or os.environ.get("GDGPU_NVTX"))


def ranged(function: F) -> F:
    """Decorator: calls of the function become ranges named gdgpu.<its qualified name>."""
    if not LISTENED:
        return function
    try:
        from cupy.cuda import nvtx
    except ImportError:
        return function
    name = f"gdgpu.{function.__qualname__.lstrip('_')}"

    @functools.wraps(function)
    def within(*args: Any, **kwargs: Any) -> Any:
        nvtx.RangePush(name)
        try:
            return function(*args, **kwargs)
        finally:
            nvtx.RangePop()

    return cast(F, within)
