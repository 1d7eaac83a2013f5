"""What a step does besides its rule: gradient scaling, skipping, clipping, zeroing."""

from typing import Any

import numpy as np

from ..core.arrays import View, kernel_device, view
from ..core.checks import element, flag, number
from ..kernels.backend.buffers import Buffer, address_of
from ..kernels.backend.memory import itemsize
from ..kernels.codegen.element import OPTIONS, STEP_CONTEXT


class GradScaling:
    """What one call of `step` asks for, checked. options: as kernels name them."""

    def __init__(
        self,
        engine: Any,
        grad_scale: Any,
        found_inf: Any,
        clip_value: float | None,
        clip_norm: float | None,
        zero_grads: bool,
    ) -> None:
        self.grad_scale = _scalar("grad_scale", grad_scale, engine, _positive)
        self.found_inf = _scalar("found_inf", found_inf, engine, lambda x: float(flag("found_inf", x)))
        sums = {scalars.sums for scalars in engine.scalars.values()}
        largest = float(np.finfo("float32" if "float32" in sums else "float64").max)
        self.clip_value = None if clip_value is None else number("clip_value", clip_value, high=largest)
        self.clip_norm = None if clip_norm is None else number("clip_norm", clip_norm, high=largest)
        asked = {
            "grad_scale": grad_scale is not None,
            "clip_value": clip_value is not None,
            "clip_norm": clip_norm is not None,
            "found_inf": found_inf is not None,
            "zero_grads": flag("zero_grads", zero_grads),
        }
        self.options = tuple(option for option in OPTIONS if asked.get(option))
        if self.clip_norm is not None and len(sums) > 1:
            raise ValueError("clip_norm: expected params that are all computed in float32, or all in float64")


def _positive(scale):
    if np.float32(number("grad_scale", scale, high=float(np.finfo(np.float32).max))) == 0:
        raise ValueError(f"grad_scale: expected a number > 0, got {scale!r}")
    return float(scale)


def _scalar(name, value, engine, checked):
    """A number, or a View of an array of one float32; None for None."""
    if value is None:
        return None
    if isinstance(value, bool | int | float | np.bool_ | np.number):
        return checked(element(value))
    scalar = view(value, name)
    if scalar.size != 1 or scalar.dtype != "float32":
        raise ValueError(f"{name}: expected a number or an array of one float32, got {scalar.dtype} {scalar.shape}")
    kernel_device([*engine.views[:1], scalar])
    return scalar


class _Nothing:
    """A step as the rule has it."""

    options, grad_scale, found_inf, clip_value, clip_norm = (), None, None, None, None


NOTHING = _Nothing()


class StepContext:
    """The row of addresses that a launch reads, and the numbers at some of them; they stay where they are."""

    def __init__(self, xp: Any, sums: str) -> None:
        self.sums = sums
        self.row = Buffer(xp, np.zeros(len(STEP_CONTEXT), np.int64))
        self.numbers, self.limits = Buffer(xp, np.zeros(2, np.float32)), Buffer(xp, np.zeros(2, sums))

    @property
    def address(self) -> int:
        return self.row.address

    def set(self, scaling: Any, steps_at: int, clip: Any = None) -> None:
        """Take what this step asks for. steps_at: where steps are counted, or 0; clip: the Norms that clip, or None."""
        asked, at = (scaling.grad_scale, scaling.found_inf), []
        self.numbers.set(np.array([0.0 if v is None or isinstance(v, View) else v for v in asked], np.float32))
        self.limits.set(np.array([scaling.clip_value or 0.0, scaling.clip_norm or 0.0], self.sums))
        for k, v in enumerate(asked):
            at.append(0 if v is None else v.address if isinstance(v, View) else self.numbers.address + 4 * k)
        limit = self.limits.address
        factor = address_of(clip.factor) if clip else 0
        self.row.set(np.array([*at, steps_at, limit, factor, limit + itemsize(self.sums)], np.int64))
