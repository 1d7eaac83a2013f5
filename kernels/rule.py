"""A row of the table of update rules: what the kernels of all families are generated from."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property


def _names(function):
    return tuple(inspect.signature(function).parameters) if function else ()


@dataclass(frozen=True, eq=False)
class Rule:
    """A row of the table: the function, which of its parameters are state or flags, and the source.

    One function may stand in several rows: `fixed` flags are compiled in, and what they make unneeded is named in
    `absent`, states that are neither taken nor returned.

    Its other parameters are scalars. Without a `step` function they are the hyperparameters. With one, those named in
    `given` are what it returns, in float64, after the `carried` ones (name -> value before the first step), once a
    step: (*carried, *hyper) -> (*carried, *given). A given one may have the name of a hyperparameter, and replaces it.
    """

    function: Callable
    state: tuple = ()
    flags: tuple = ()
    reference: str = ""
    name: str = ""
    step: Callable | None = None
    given: tuple = ()
    carried: dict = field(default_factory=dict)
    fixed: dict = field(default_factory=dict)
    absent: tuple = ()

    def __post_init__(self):
        object.__setattr__(self, "name", self.name or self.function.__name__)

    @cached_property
    def scalars(self):
        """Names of the scalars that the function takes."""
        others = (*self.state, *self.flags, *self.fixed, *self.absent)
        return tuple(n for n in _names(self.function)[2:] if n not in others)

    @cached_property
    def taken(self):
        """Names of what the step function takes."""
        return _names(self.step)

    @cached_property
    def hyper(self):
        """Names of the hyperparameters: scalars that the user gives, which may change from step to step."""
        taken = (n for n in self.taken if n not in self.carried)
        return tuple(dict.fromkeys((*taken, *(n for n in self.scalars if n not in self.given))))
