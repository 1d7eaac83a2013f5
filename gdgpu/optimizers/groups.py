"""Parameter groups: tensors that share hyperparameters, as in torch.optim."""

import weakref
from typing import TYPE_CHECKING, Any

from ..typing import Rate
from .hyperparameters import Hyperparameter, Settings


class Part:
    """A group inside: its params as they were given, which tensors they are, and its settings.

    given: hyperparameters that it gives itself; all others are the optimizer's.
    """

    __slots__ = ("given", "kernel", "numbers", "options", "params", "rule", "settings", "tensors")

    def __init__(self, params: Any, given: dict[str, Any], settings: Settings, tensors: range) -> None:
        self.params, self.tensors = params, tensors
        self.take(given, settings)

    def take(self, given: dict[str, Any], settings: Settings) -> None:
        """Have these hyperparameters."""
        self.given, self.settings = given, settings
        self.rule, self.numbers, self.options = settings.rule, settings.numbers, settings.options
        self.kernel = settings.kernel


class Group:
    """One of an optimizer's groups. Its hyperparameters are attributes, and assignable; None: the optimizer's."""

    __slots__ = ("__weakref__", "_index", "_owner")

    lr = Hyperparameter[Rate]()

    def __init__(self, optimizer: Any, index: int) -> None:
        self._owner = weakref.ref(optimizer)  # no cycle: an optimizer that is dropped is gone at once
        self._index = index

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    @property
    def params(self) -> Any:
        """The arrays, as they were given."""
        return self._optimizer._engine.parts[self._index].params

    @property
    def _optimizer(self) -> Any:
        optimizer = self._owner()
        if optimizer is None:
            raise ReferenceError("the optimizer of this group is gone: keep it")
        return optimizer

    def _read(self, name: str) -> Any:
        return self._optimizer._engine.value(name, self._index)

    def _assign(self, name: str, value: Any) -> None:
        self._optimizer._assign(name, value, self._index)

    def __repr__(self) -> str:
        engine = self._optimizer._engine
        return f"Group({engine.described(self._index)})"
