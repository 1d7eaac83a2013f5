"""A row of the table of update rules: what the kernels of all families are generated from."""

import ast
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property

from ..codegen.language import NORMS
from ..codegen.source import Source

Flags = tuple[tuple[str, bool], ...]
COPIES = ("master", "ema")  # what may be kept beside the weights: wider ones, and their moving average


def _names(function):
    return tuple(inspect.signature(function).parameters) if function else ()


@dataclass(frozen=True, eq=False)
class Rule:
    """A row of the table: the function, which of its parameters are state or flags, and the source.

    nonnegative: states that are never negative; squares: those of them that are divided by as a root. torch: states
    that torch.optim keeps in another form: name -> (its name there, the function that makes it of ours, the one that
    makes ours of it), both of arrays by the names of states.

    One function may stand in several rows: `fixed` flags are compiled in, and what they make unneeded is named in
    `absent`, states that are neither taken nor returned.

    Its other parameters are scalars. Without a `step` function they are the hyperparameters. With one, those named in
    `given` are what it returns, in float64, after the `carried` ones (name -> value before the first step), once a
    step: (*carried, *hyper) -> (*carried, *given). A given one may have the name of a hyperparameter, and replaces it.
    counted: those carried ones that follow from the count of steps and from today's hyperparameters, as torch has them:
    where these are assigned, they are made anew. The others go on.

    A rule that needs norms of whole tensors has two phases. `norm` comes first: (w, g, *state, …) -> (u, *early), the
    states named in `early` being new already. The function then takes the norms of w and u as w_norm and u_norm, and
    returns (w, *state) without the early ones.
    """

    function: Callable
    state: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    reference: str = ""
    name: str = ""
    step: Callable | None = None
    given: tuple[str, ...] = ()
    carried: dict[str, float] = field(default_factory=dict)
    counted: tuple[str, ...] = ()
    fixed: dict[str, bool] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    nonnegative: tuple[str, ...] = ()
    squares: tuple[str, ...] = ()
    torch: dict[str, tuple] = field(default_factory=dict)
    norm: Callable | None = None
    early: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "name", self.name or self.function.__name__)
        object.__setattr__(self, "nonnegative", tuple(dict.fromkeys((*self.nonnegative, *self.squares))))

    @property
    def states(self) -> tuple[str, ...]:
        """Names of all arrays beside w and g: what is kept, and the rule's state."""
        return (*self.copies, *self.state)

    @cached_property
    def named(self) -> dict[str, str]:
        """What kernels call each state: with its number, so that it is called like no variable of theirs."""
        return {n: f"s{k}_{n}" for k, n in enumerate(self.state)}

    @property
    def array_names(self) -> tuple[str, ...]:
        """What kernels call the arrays of `states`."""
        return (*self.copies, *self.named.values())

    def code(self, name: str) -> str:
        """The kind of 8-bit codes, of quantize.py, for the state of this name."""
        if name in self.squares:
            return "unsigned8"
        return "positive8" if name in self.nonnegative else "signed8"

    @cached_property
    def divisors(self) -> tuple[str, ...]:
        """Names of the states that it divides by: as they are, or as something that is made of them."""
        found = {n for function in (self.function, self.norm) if function for n in _divisors(function, self.state)}
        return tuple(n for n in self.state if n in found)

    def parameters(self, function: Callable | None) -> tuple[str, ...]:
        """Names of what the function, or norm, takes once flags are compiled in."""
        return tuple(n for n in _names(function) if n not in (*self.flags, *self.fixed, *self.absent))

    @cached_property
    def scalars(self) -> tuple[str, ...]:
        """Names of the scalars that kernels of this rule read."""
        others = ("w", "g", *self.state, *(NORMS if self.norm else ()))
        names = (*self.parameters(self.norm), *self.parameters(self.function))
        scalars = dict.fromkeys(n for n in names if n not in others)
        return (*scalars, *(("ema_decay", "ema_rest") if "ema" in self.copies else ()))

    @cached_property
    def taken(self) -> tuple[str, ...]:
        """Names of what the step function takes."""
        return _names(self.step)

    @cached_property
    def hyper(self) -> tuple[str, ...]:
        """Names of the hyperparameters: scalars that the user gives, which may change from step to step."""
        taken = (n for n in self.taken if n not in self.carried)
        return tuple(dict.fromkeys((*taken, *(n for n in self.scalars if n not in self.given))))


def _divisors(function, state):
    """Names in what the function divides by, those of local variables followed to what they are made of."""
    made, found = {}, set()
    for node in ast.walk(Source.of(function).tree):
        if isinstance(node, ast.Assign | ast.AugAssign):
            for target in node.targets if isinstance(node, ast.Assign) else (node.target,):
                for name in _names_in(target):
                    made.setdefault(name, set()).update(_names_in(node.value))
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            found |= _names_in(node.right if isinstance(node, ast.BinOp) else node.value)
    while new := {n for name in found - {*state} for n in made.get(name, ())} - found:
        found |= new
    return found


def _names_in(tree):
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


@cache
def with_copies(rule: Rule, copies: tuple[str, ...]) -> Rule:
    """The rule with these names of COPIES beside its state."""
    return replace(rule, copies=copies) if copies else rule
