"""Hyperparameters where kernels read them: a row of scalars for each group of parameters."""

from typing import Any

import numpy as np

from ..kernels.backend.buffers import Buffer, address_of
from ..kernels.backend.memory import itemsize
from ..kernels.optimizers import step_scalars
from ..kernels.rules.rule import Rule


def counting(device: str, context: int) -> Any:
    """The launch that counts a step and does nothing else."""
    return step_scalars.launcher(device, step_scalars.kernel(device, None, "float32"), 0, 0, 0, 1, context, 1)


class Scalars:
    """The scalars of one rule for the groups that use it, in the dtype `sums`; their addresses never change.

    A rule without a step function reads the hyperparameters themselves. With one, the hyperparameters lie there in
    float64, and `advance` makes the scalars of the next step from them and from its running products.
    """

    def __init__(self, rule: Rule, sums: str, groups: list[Any], device: str, xp: Any) -> None:
        self.rule, self.sums, self.groups = rule, sums, groups
        rows = len(groups)
        shape = (rows, len(rule.hyper))
        self.values = Buffer(xp, np.zeros(shape, "float64" if rule.step else sums))
        self.device, self.carried, self.address = device, None, self.values.address
        if rule.step:
            self.carried = xp.asarray(step_scalars.initial(rule, rows))
            self.scalars = xp.zeros((rows, len(rule.scalars)), sums)
            self.address = address_of(self.scalars)

    def advance(self, context: int, counts: bool) -> Any:
        """The launch that makes the scalars of the next step. context, counts: as its kernel has them."""
        kernel = step_scalars.kernel(self.device, self.rule, self.sums)
        at = self.values.address, address_of(self.carried), self.address
        return step_scalars.launcher(self.device, kernel, *at, len(self.groups), context, int(counts))

    @property
    def key(self) -> str:
        """How a state_dict calls these running products."""
        return f"{self.rule.name}/{self.sums}"

    def row(self, group: Any) -> int:
        """The address of a group's scalars."""
        return self.address + self.groups.index(group) * len(self.rule.scalars) * itemsize(self.sums)

    def rounded(self, values: list[dict[str, float]]) -> np.ndarray:
        """The rows for these hyperparameters, a dict for each group; ValueError for one that becomes infinite."""
        with np.errstate(over="ignore"):
            rows = np.array([[v[name] for name in self.rule.hyper] for v in values], self.values.host.dtype)
            narrow = rows.astype(self.sums)
        if not np.isfinite(narrow).all():
            row, column = np.argwhere(~np.isfinite(narrow))[0]
            name = self.rule.hyper[column]
            raise ValueError(f"{name}: {values[row][name]!r} is too large for {self.sums} parameters")
        return rows


def replayed(rule: Rule, sums: str, values: list[dict[str, float]], steps: int) -> np.ndarray:
    """The running products after so many steps with these numbers, a row for each; taken by a step's own kernel."""
    numbers = np.array([[v[name] for name in rule.hyper] for v in values], np.float64)
    carried, scalars = step_scalars.initial(rule, len(values)), np.zeros((len(values), len(rule.scalars)), sums)
    # called as it is: what a launch adds takes five times as long, and there may be a million of them
    step, args = step_scalars.kernel("cpu", rule, sums), tuple(map(address_of, (numbers, carried, scalars)))
    for _ in range(steps):
        step(*args, 0, 0, 0, 0, len(values))  # context, counts, scratch, first, last
    return carried
