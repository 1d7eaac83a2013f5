"""Hyperparameters: as users assign them, as a rule takes them, and the checks that several optimizers share."""

from collections.abc import Iterable
from typing import Any, Generic, NamedTuple, Self, TypeVar, overload

from ..core.checks import number
from ..kernels.rules.rule import Rule

T = TypeVar("T")


class Hyperparameter(Generic[T]):
    """An attribute of optimizers and of their groups: what is assigned is checked, and taken by the next step.

    One of a group that is None follows the optimizer's.
    """

    def __set_name__(self, kind: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, holder: None, kind: type) -> Self: ...

    @overload
    def __get__(self, holder: object, kind: type) -> T: ...

    def __get__(self, holder: Any, kind: Any = None) -> Any:
        return self if holder is None else holder._read(self.name)

    def __set__(self, holder: Any, value: T) -> None:
        holder._assign(self.name, value)

    def __delete__(self, holder: Any) -> None:
        raise AttributeError(f"{self.name}: a hyperparameter cannot be deleted, only assigned")


class Settings(NamedTuple):
    """The hyperparameters of a group: numbers and flags as its rule takes them, options as the user names them."""

    rule: Rule
    numbers: dict[str, float]
    flags: dict[str, bool]
    options: dict[str, Any]

    @property
    def kernel(self) -> tuple[Rule, tuple[tuple[str, bool], ...]]:
        """What kernels are made from."""
        return self.rule, tuple((name, self.flags[name]) for name in self.rule.flags)


def unexpected(kind: str, given: Iterable[str], taken: Iterable[str]) -> TypeError | None:
    """The error for the first keyword that an optimizer of this kind does not take."""
    taken = list(taken)
    for name in given:
        if name not in taken:
            import difflib

            close = difflib.get_close_matches(name, taken, 1)
            hint = f", did you mean {close[0]!r}?" if close else f"; it takes {', '.join(taken)}"
            return TypeError(f"{name}: {kind} has no such keyword{hint}")
    return None


def betas_of(betas: Any) -> dict[str, float]:
    """The two betas as a rule takes them, with what they leave to the new value, rounded once from float64."""
    if not isinstance(betas, list | tuple) or len(betas) != 2:
        raise TypeError(f"betas: expected two numbers, got {betas!r}")
    beta1, beta2 = (number(f"betas[{k}]", beta, high=1, high_is_open=True) for k, beta in enumerate(betas))
    return {"beta1": beta1, "beta2": beta2, "rest1": 1 - beta1, "rest2": 1 - beta2}


def positive(eps: Any, weight_decay: Any) -> dict[str, float]:
    """What most rules with adaptive learning rates take besides."""
    return {"eps": number("eps", eps), "weight_decay": number("weight_decay", weight_decay)}


def checked_lr(value: Any) -> Any:
    """A number >= 0, or a function of the number of completed steps, which a step calls."""
    return value if callable(value) else number("lr", value)
