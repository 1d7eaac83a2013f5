"""Names of types for annotations: what gdgpu takes and returns."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "Activation",
    "Array",
    "Arrays",
    "BatchSize",
    "Device",
    "FloatDtype",
    "LossName",
    "Params",
    "Path",
    "Rate",
    "Reduction",
    "Schedule",
]

Array: TypeAlias = Any  # NumPy's, CuPy's, torch's, or another that speaks DLPack: they share no type
Arrays: TypeAlias = Array | Sequence[Array] | Mapping[str, Array]  # results are in the same structure
Params: TypeAlias = Arrays | Sequence[Mapping[str, Any]]  # or groups: {"params": Arrays, "lr": …}

Device: TypeAlias = Literal["auto", "cpu", "cuda"]
FloatDtype: TypeAlias = "Literal['float32', 'float64'] | type[np.float32 | np.float64] | np.dtype[Any]"
Path: TypeAlias = str | os.PathLike[str]

Schedule: TypeAlias = Callable[[int], float]  # of the number of completed steps
Rate: TypeAlias = float | Schedule
Reduction: TypeAlias = Literal["mean", "sum"]
BatchSize: TypeAlias = int | Literal["full"]

Activation: TypeAlias = Literal["relu", "tanh"]
LossName: TypeAlias = Literal["squared", "huber", "poisson", "logistic", "softmax"]
