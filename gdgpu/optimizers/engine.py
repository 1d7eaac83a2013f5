"""What an optimizer is inside: its parameters, state, scalars and launches, by names that the rest of the room uses."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import numpy as np

from ..core.arrays import View, disjoint, in_order, kernel_device, view, writable
from ..core.checks import number
from ..core.pytree import Tree, leaves
from ..kernels.backend.memory import accumulator
from ..kernels.backend.streams import order
from ..kernels.backend.threads import whole
from ..kernels.rules.rule import with_copies
from ..kernels.rules.table import RULES
from . import reassign
from .groups import Part
from .hyperparameters import Settings, checked_lr
from .launches import Launches
from .precision import Precision, State
from .step_scalars import Scalars


class Engine:
    """The optimizer without its public face, which alone says whose turn it is.

    kind: its class, whose `_rule` says which rule the hyperparameters call for. tree: the structure of params. parts:
    its groups. defaults: lr and hyperparameters of groups that give none themselves. precision: what is kept, and how.

    For each parameter, in order: views; group_of; state, an array for each name in its rule's `states`; keys of random
    bits. scalars: {(rule, dtype): what kernels read}. order: of what is enqueued on a GPU. count: completed steps,
    unless the device counts them in `clock`. version: grows with what bound steps have to be laid out anew for.
    varying: whether lr is a function. recorded: what CUDA graphs go on reading.
    """

    def __init__(self, kind: type, params: Any, lr: Any, options: dict[str, Any], precision: dict[str, Any]) -> None:
        self.kind, self.tree, self.count, self.clock, self.version = kind, Tree(params), 0, None, 0
        self.defaults, self.precision = {"lr": checked_lr(lr)} | options, Precision(**precision)
        self.views, self.parts = [], []
        for k, (part, name) in enumerate(self.tree.parts):
            given = self._given(k)
            settings = self._labelled(k, given)
            views = [writable(view(array, label)) for label, array in leaves(part, name)]
            self.parts.append(Part(part, given, settings, range(len(self.views), len(self.views) + len(views))))
            self.views += views
        self.device, self.xp = kernel_device(self.views) if self.views else ("cpu", np)
        disjoint(self.views)
        self.group_of = [part for part in self.parts for _ in part.tensors]
        for v, part in zip(self.views, self.group_of, strict=True):
            self.precision.check(v, part.rule, self.name)
        self.take_seed(self.precision.seed)
        self.order, self.recorded, self.varying = order(self.device), set(), False
        with self.in_order():
            pairs = zip(self.views, self.group_of, strict=True)
            self.state = [[self.new_state(v, part.settings, name) for name in part.rule.states] for v, part in pairs]
            self.clock = self.xp.zeros(1, np.int64) if self.precision.at_random else None
            self.launches = Launches(self)
            self.scalars = self.gathered({})
            self.renew()

    @property
    def name(self) -> str:
        """The optimizer's name, in lower case."""
        return self.kind.__name__.lower()

    def in_order(self, instead: str = "take this call outside of the capture") -> AbstractContextManager[None]:
        """Context in which it allocates and launches: see arrays.in_order."""
        return in_order(self.views, self.order, instead)

    def take_seed(self, seed: int) -> None:
        """Let what is rounded at random begin with it."""
        self.precision.seed = seed
        self.keys = self.precision.keys(len(self.views))

    def new_state(self, v: View, settings: Settings, name: str) -> State:
        """The state of this name of a parameter, as it begins."""
        return self.precision.new(self.device, self.xp, v, settings.rule, name, self.kind._initial(settings, name))

    def gathered(self, before: dict[Any, Scalars]) -> dict[Any, Scalars]:
        """The Scalars of each rule and dtype: those from before where their groups are the same."""
        members, found = {}, {}
        for v, part in zip(self.views, self.group_of, strict=True):
            members.setdefault((part.rule, accumulator(v.dtype)), {})[part] = None
        for key, parts in members.items():
            same = key in before and before[key].groups == list(parts)
            found[key] = before[key] if same else Scalars(*key, list(parts), self.device, self.xp)
        return found

    # Hyperparameters

    def _given(self, k: int) -> dict[str, Any]:
        """What group k gives itself."""
        given = self.tree.options(k)
        for key in given:
            if key not in self.defaults:
                raise ValueError(f"params[{k}]: expected the keys params, {', '.join(self.defaults)}, got {key!r}")
        return {key: value for key, value in given.items() if value is not None}

    def _labelled(self, k: int, given: dict[str, Any]) -> Settings:
        try:
            if "lr" in given:
                given["lr"] = checked_lr(given["lr"])
            return self.settings(self.defaults | given)
        except (TypeError, ValueError) as error:
            raise type(error)(f"params[{k}]: {error}" if given else str(error)) from None

    def settings(self, options: dict[str, Any]) -> Settings:
        """What these hyperparameters come to, checked; lr is not among them."""
        options = {name: value for name, value in options.items() if name != "lr"}
        rule, numbers, flags = self.kind._rule(**options)
        rule = with_copies(RULES.get(rule, rule), self.precision.copies)
        return Settings(rule, numbers, flags, {n: (numbers | flags).get(n, value) for n, value in options.items()})

    def value(self, name: str, k: int | None = None) -> Any:
        """A hyperparameter, of group k or of the optimizer."""
        if name == "lr":
            return self.defaults["lr"] if k is None else self.rate(self.parts[k])
        if k is not None:
            return self.parts[k].options[name]
        return next((part.options[name] for part in self.parts if name not in part.given), self.defaults[name])

    def assign(self, name: str, value: Any, k: int | None = None) -> None:
        """Take a hyperparameter, of group k or of the optimizer; where it is refused, nothing changes."""
        before = self.defaults if k is None else self.parts[k].given
        if value is None and k is not None:  # follow the optimizer
            after = {key: old for key, old in before.items() if key != name}
        else:
            after = before | {name: checked_lr(value) if name == "lr" else value}
        with self.in_order():
            if name == "lr":
                self._assign_rates(before, after, k)
            else:
                given = [after if i == k else part.given for i, part in enumerate(self.parts)]
                reassign.configure(self, after if k is None else self.defaults, given, name)

    def _assign_rates(self, before: dict[str, Any], after: dict[str, Any], k: int | None) -> None:
        """As schedulers do after every step: what all_or_nothing saves besides would be a tenth of its time."""
        holder, place = (self, "defaults") if k is None else (self.parts[k], "given")
        try:
            setattr(holder, place, after)
            self.renew()
        except BaseException:
            setattr(holder, place, before)
            self.renew()
            raise

    @contextmanager
    def all_or_nothing(self) -> Iterator[list[tuple[Any, Any]]]:
        """Context in which hyperparameters change, and what follows from them; if it fails, all is as it was.

        It gives a list for arrays that are written there: (the array, a copy of what it held).
        """
        parts, written = [(part.given, part.settings) for part in self.parts], []
        before = self.defaults, self.scalars, self.state, self.launches
        try:
            yield written
        except BaseException:
            for part, given_and_settings in zip(self.parts, parts, strict=True):
                part.take(*given_and_settings)
            self.defaults, self.scalars, self.state, self.launches = before
            for array, values in written:
                array[...] = values
            self.renew()
            raise

    def current(self, part: Part) -> dict[str, Any]:
        """The hyperparameters of a group in the next step, as the constructor names them."""
        return {"lr": self.lr_of(part)} | part.options

    def lr_of(self, part: Part) -> float:
        """The lr of a group in the next step."""
        rate = self.rate(part)
        return number("lr", rate(self.steps)) if callable(rate) else rate

    def rate(self, part: Part) -> Any:
        """The lr of a group: a number, or a function."""
        return part.given.get("lr", self.defaults["lr"])

    def described(self, k: int | None = None, names: Iterable[str] | None = None) -> str:
        """Hyperparameters of group k or of the optimizer, all or those of these names, as they would be given."""
        return ", ".join(
            f"{name}={_shown(self.value(name, k))}" for name in (self.defaults if names is None else names)
        )

    def __repr__(self) -> str:
        precision = [f"{name}={value!r}" for name, value in self.precision.keywords.items()]
        groups = [f"groups[{k}]: {self.described(k, part.given)}" for k, part in enumerate(self.parts) if part.given]
        size, count, dtypes = (
            sum(v.size for v in self.views),
            len(self.views),
            dict.fromkeys(v.dtype for v in self.views),
        )
        what = ", ".join([f"{size} parameters in {count} array{'s' * (count != 1)}", *dtypes, self.device])
        return f"{self.kind.__name__}({'; '.join([', '.join([self.described(), *precision]), *groups, what])})"

    # Scalars that kernels read

    def renew(self) -> None:
        """Take what was assigned. Functions of the step are called by the step that they are for."""
        rates = [self.rate(part) for part in self.parts]
        rows = self._rows([0.0 if callable(rate) else rate for rate in rates])
        varying = any(map(callable, rates))
        self.varying = True  # if an exception comes from elsewhere, the next step puts them right
        if not varying:
            _put(rows)
        self.varying = varying

    def refresh(self) -> None:
        """Take the lr of the step to come."""
        _put(self._rows([self.lr_of(part) for part in self.parts]))
        self.varying = any(callable(self.rate(part)) for part in self.parts)

    def values(self, part: Part, lr: float) -> dict[str, float]:
        """All numbers of a group."""
        return {"lr": lr} | self.precision.scalars | part.numbers

    def _rows(self, rates: list[float]):
        """What kernels read in the next step, checked; rates: the lr of each group."""
        values = {part: self.values(part, lr) for part, lr in zip(self.parts, rates, strict=True)}
        return [(s, s.rounded([values[part] for part in s.groups])) for s in self.scalars.values()]

    # Steps

    @property
    def steps(self) -> int:
        """Completed steps. Where the device counts them, this waits for it."""
        if self.clock is None:
            return self.count
        with self.in_order():
            return int(self.clock[0])

    @steps.setter
    def steps(self, value: int) -> None:
        if self.clock is None:
            self.count = value
        else:
            with self.in_order():
                self.clock[...] = value

    def count_on_device(self) -> None:
        """From now on, steps may be skipped, which only the device knows."""
        if self.clock is None:
            self.clock = self.xp.full(1, self.count, np.int64)
            self.version += 1

    def take(self, launches: list[Any]) -> None:
        """Take a step."""
        if self.varying:
            self.refresh()
        if self.clock is None:
            whole(launches, partial(setattr, self, "count", self.count + 1))
        else:
            whole(launches)

    def record(self, *read: Any) -> None:
        """Let a CUDA graph record the next step, which goes on reading these."""
        if self.varying:
            raise RuntimeError("a CUDA graph would repeat this step's lr: first take a step, and assign lr as numbers")
        self.recorded.add(read)


def _put(rows) -> None:
    for scalars, array in rows:
        scalars.values.set(array)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and value == float(f"{value:g}") else repr(value)
