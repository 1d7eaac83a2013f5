"""Gradient descent at the speed of memory, with the same bits on CPU and GPU."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .optimizers import HOMES

__version__ = "0.1.0"

# Each public name and the module it lives in. They load on first use (PEP 562), so that
# `import gdgpu` costs nothing and numba, cupy and matplotlib are imported only when needed. Editors and type checkers
# read __init__.pyi.
_HOME = {
    "minibatches": "datasets.minibatches",
    "reduce_samples": "samples.reduce",
    "Accumulator": "samples.accumulator",
    "sample_norms": "samples.clipping",
    "clip_weights": "samples.clipping",
    "sample_statistics": "samples.statistics",
    "median_samples": "samples.statistics",
    "trimmed_mean_samples": "samples.statistics",
    **{name: f"optimizers.{home}" for name, home in HOMES.items()},
    "Optimizer": "optimizers.base",
    "rule": "optimizers.rule",
    "flatten": "optimizers.flatten",
    "fma": "kernels.backend.scalars",
    "sqrt": "kernels.backend.scalars",
    "maximum": "kernels.backend.scalars",
    "minimum": "kernels.backend.scalars",
    "sign": "kernels.backend.scalars",
    "num_threads": "kernels.backend.threads",
    "set_num_threads": "kernels.backend.threads",
    "fit": "training",
    "History": "training",
    "Diverged": "training",
}
_MODULES = ("checkpoint", "datasets", "devices", "machine_code", "models", "schedules")
_INNER = ("kernels", "typing")

__all__ = [*_HOME, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES + _INNER:
        return import_module(f"gdgpu.{name}")
    if name in _HOME:
        value = getattr(import_module(f"gdgpu.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'gdgpu' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES, *_INNER})


def _register_with_numba() -> None:
    """Numba calls this before it compiles anything, so that `gdgpu.fma` and the others work in a user's njit."""
    for name, home in _HOME.items():
        if home == "kernels.backend.scalars":
            __getattr__(name)
