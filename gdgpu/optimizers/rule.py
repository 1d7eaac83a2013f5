"""A user's own update rule as an optimizer, with everything that the built-in ones have."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from inspect import Parameter
from typing import TYPE_CHECKING, Any, ClassVar, overload

from ..core.checks import flag, number
from ..kernels.codegen.source import Source, rule_text
from ..kernels.rules.rule import COPIES, Rule
from .base import Optimizer
from .hyperparameters import Hyperparameter
from .precision import Precision

# What every optimizer takes besides.
_COMMON = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in inspect.signature(Precision).parameters.values()]
RESERVED = ("self", "params", *(p.name for p in _COMMON), *COPIES, *Precision().scalars)


@overload
def rule(function: Callable[..., Any], /) -> type[UserRule]: ...


@overload
def rule(
    *,
    state: Sequence[str] = (),
    step: Callable[..., Any] | None = None,
    carried: dict[str, float] | None = None,
    nonnegative: Sequence[str] = (),
    squares: Sequence[str] = (),
    **defaults: Any,
) -> Callable[[Callable[..., Any]], type[UserRule]]: ...


def rule(
    function: Callable[..., Any] | None = None,
    /,
    *,
    state: Sequence[str] = (),
    step: Callable[..., Any] | None = None,
    carried: dict[str, float] | None = None,
    nonnegative: Sequence[str] = (),
    squares: Sequence[str] = (),
    **defaults: Any,
) -> Any:
    """Make an optimizer class of an update rule: a function (w, g, *state, lr, …) -> (w, *state) of numbers.

        @gdgpu.rule(state=("velocity",), momentum=0.9)
        def heavy_ball(w, g, velocity, lr, momentum):
            velocity = gdgpu.fma(momentum, velocity, -(lr * g))
            return w + velocity, velocity

        opt = heavy_ball(params, lr=0.1, momentum=0.8)

    The class takes (params, lr, *, momentum=0.9, …) and has all that gdgpu.Momentum has. A rule is assignments, `if`
    and `return`; + - * /, comparisons, numbers and gdgpu.fma, sqrt, maximum, minimum and sign. Numbers have the
    precision of the arrays; nothing is contracted to a multiply-add but fma itself.

    state: names of its arrays, zero at first, in the order in which the rule takes and returns them.
    defaults: of hyperparameters, lr too; those without one must be given. They are finite numbers, or, where the
    default is True or False, flags, which are fixed when a kernel is compiled.

    nonnegative: states that never are < 0; squares: those of them that are divided by as a root. In 8 bits neither is
    rounded to 0, as others are. A divisor that is in squares without need makes steps that are too long; one that is
    only in nonnegative makes too short ones where it is below 2^-11 of the largest of 256 elements, not 2^-18.

    step: a function (*carried, hyperparameters) that makes, once a step and in float64, what the rule takes; it returns
    the carried scalars, then these, by their names. carried: what the carried ones are before the first step. They go
    on where a hyperparameter is assigned.

        def corrected(power, lr, beta):
            power = power * beta
            step_size = lr / (1 - power)
            return power, step_size

        @gdgpu.rule(state=("mean",), step=corrected, carried={"power": 1.0}, beta=0.9)
        def debiased(w, g, mean, step_size, beta): …

    Raises TypeError with the rule's file and line for what cannot be a rule.
    """
    kinds = {"nonnegative": nonnegative, "squares": squares}
    make = partial(_optimizer, state=state, step=step, carried=carried or {}, kinds=kinds, defaults=defaults)
    return make if function is None else make(function)


class UserRule(Optimizer):
    """What gdgpu.rule makes: an optimizer whose rule is a user's. rule: its row, as kernels/rules/table.py has them."""

    __slots__ = ()

    if TYPE_CHECKING:
        rule: ClassVar[Rule]

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    def __init__(self, *args: Any, **given: Any) -> None:
        try:
            taken = inspect.signature(type(self)).bind(*args, **given)
        except TypeError as error:
            raise TypeError(f"{self.rule.name}: {error}") from None
        taken.apply_defaults()
        params, lr, *_ = taken.args
        hyper = {name: taken.kwargs[name] for name in _options(self.rule)}
        super().__init__(params, lr, hyper, **{k: v for k, v in taken.kwargs.items() if k not in hyper})

    @classmethod
    def _rule(cls, **given):
        flags = {name: flag(name, given.pop(name)) for name in cls.rule.flags}
        return cls.rule, {name: _finite(name, value) for name, value in given.items()}, flags

    @classmethod
    def check(cls, dtype: str = "float32", architectures: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Figures of this rule's CUDA kernels, and what is wrong with them, with no GPU: machine_code.inspect_rule."""
        from ..machine_code import inspect_rule

        return inspect_rule(cls.rule, dtype, architectures)


def _optimizer(function, state, step, carried, kinds, defaults):
    source = Source.of(function)
    if not isinstance(carried, dict):
        raise TypeError(f"carried: expected a dict of numbers, like {{'power': 1.0}}, got {carried!r}")
    state, kinds = _names("state", state), {name: _names(name, given) for name, given in kinds.items()}
    flags = tuple(name for name, value in defaults.items() if isinstance(value, bool))
    given = _given(step, carried, ("w", "g", *state, *flags)) if step else ()
    row = Rule(function, state, flags, step=step, given=given, carried=carried, **kinds)
    for what in _complaints(row, source.parameters, defaults, kinds):
        raise source.error(source.tree, what)
    for on in itertools.product((False, True), repeat=len(flags)):
        rule_text(function, dict(zip(flags, on, strict=True)), returns=("w", *state))
    for name, value in defaults.items():
        if name not in flags and not (name == "lr" and callable(value)):
            number(name, value, low=0.0 if name == "lr" else -math.inf)
    body = {"rule": row, "__signature__": _signature(row, defaults), "__doc__": function.__doc__}
    body |= {"__slots__": (), "__module__": function.__module__, "__qualname__": function.__qualname__}
    body |= {name: Hyperparameter() for name in _options(row) if not hasattr(UserRule, name)}
    return type(function.__name__, (UserRule,), body)


def _complaints(row, parameters, defaults, kinds):
    """What is wrong with a row whose function takes these parameters."""
    first, hyper = ("w", "g", *row.state), ", ".join(row.hyper)
    if parameters[: len(first)] != first:
        yield f"takes ({', '.join(parameters)}); expected {', '.join(first)} first"
    if row.carried and not row.step:
        yield f"carried: {', '.join(row.carried)} need a step function, which makes them anew"
    if "lr" not in row.hyper:
        yield f"takes no lr{f', and neither does {row.step.__name__}' if row.step else ''}"
    for name in row.given:
        if name not in parameters:
            yield f"takes no {name}, which {row.step.__name__} gives"
    for name in defaults:
        if name not in (*row.hyper, *(set(row.flags) & set(parameters))):
            yield f"takes no {name}, which has a default; its hyperparameters are {hyper}"
    for kind, names in kinds.items():
        for name in names:
            if name not in row.state:
                yield f"{kind}: expected names of states, got {name}"
    for name in row.carried:
        if name in row.hyper:
            yield f"takes {name}, which is carried from step to step: let {row.step.__name__} give it by another name"
    for name in (*row.hyper, *row.flags, *row.state):
        if name in RESERVED:
            yield f"takes {name}, which every optimizer has; give it another name"


def _given(step, carried, others):
    """Names of what a step function returns besides what is carried."""
    source = Source.of(step)
    refuse = partial(source.error, source.tree)
    if missing := [name for name in carried if name not in source.parameters]:
        raise refuse(f"takes no {missing[0]}, which is carried")
    if taken := [name for name in source.parameters if name in others]:
        raise refuse(f"takes {taken[0]}; a step's scalars come from what is carried and from hyperparameters alone")
    for name, value in carried.items():
        _finite(f"carried[{name!r}]", value)
    returned = source.returned
    if returned[: len(carried)] != tuple(carried):
        raise refuse(f"returns {', '.join(returned)}; expected what is carried first: {', '.join(carried)}")
    rule_text(step, {}, returns=returned)
    return returned[len(carried) :]


def _options(row):
    """Names of what the class takes besides params and lr, as the functions name it."""
    return [name for name in (*row.hyper, *row.flags) if name != "lr"]


def _signature(row, defaults):
    def parameter(name, kind):
        return Parameter(name, kind, default=defaults.get(name, Parameter.empty))

    options = [parameter(name, Parameter.KEYWORD_ONLY) for name in _options(row)]
    first = [parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("params", "lr")]
    return inspect.Signature([*first, *options, *_COMMON])


def _names(name, given):
    """A tuple of distinct names."""
    if not isinstance(given, list | tuple) or not all(isinstance(n, str) and n.isidentifier() for n in given):
        raise TypeError(f"{name}: expected a tuple of names, like ('velocity',), got {given!r}")
    if len(set(given)) < len(given):
        raise TypeError(f"{name}: expected different names, got {given!r}")
    return tuple(given)


def _finite(name, value):
    return number(name, value, low=-math.inf)
