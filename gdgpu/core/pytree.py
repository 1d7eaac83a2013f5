"""Arrays in a structure: one, a list, a dict, groups of these."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..typing import Array, Arrays, Params


def leaves(tree: Arrays, name: str) -> list[tuple[str, Array]]:
    """The arrays of one array, a list or a dict, as (name, array) pairs, in order."""
    if isinstance(tree, dict):
        return [(f"{name}[{key!r}]", value) for key, value in tree.items()]
    if isinstance(tree, list | tuple):
        return [(f"{name}[{k}]", value) for k, value in enumerate(tree)]
    return [(name, tree)]


def like(tree: Arrays, values: Sequence[Any]) -> Any:
    """The values in the shape of `tree`: one of them, a list, or a dict with its keys."""
    if isinstance(tree, dict):
        return dict(zip(tree, values, strict=True))
    return list(values) if isinstance(tree, list | tuple) else values[0]


def matching(tree: Arrays, params: Arrays, name: str) -> list[tuple[str, Array]]:
    """Leaves of `tree` in the order of `params`; ValueError or TypeError if it is not shaped like them."""
    if isinstance(params, dict):
        if not isinstance(tree, dict):
            raise TypeError(f"{name}: expected a dict like params, got {type(tree).__name__}")
        if tree.keys() != params.keys():
            keys, got = (sorted(map(repr, keyed)) for keyed in (params, tree))
            raise ValueError(f"{name}: expected the keys {', '.join(keys)}, got {', '.join(got) or 'none'}")
        return leaves({key: tree[key] for key in params}, name)
    if isinstance(params, list | tuple):
        if not isinstance(tree, list | tuple):
            raise TypeError(f"{name}: expected a list like params, got {type(tree).__name__}")
        if len(tree) != len(params):
            raise ValueError(f"{name}: expected {len(params)} arrays like params, got {len(tree)}")
    elif isinstance(tree, list | tuple | dict):
        raise TypeError(f"{name}: expected one array like params, got a {type(tree).__name__}")
    return leaves(tree, name)


class Tree:
    """The structure of params: one array, a list, a dict, or a list of groups of these; grads have it too.

    parts: (params, name) of each group, or of all there is.
    """

    def __init__(self, params: Params) -> None:
        self.params = params
        self.grouped = isinstance(params, list | tuple) and any(isinstance(p, dict) for p in params)
        if self.grouped:
            for k, group in enumerate(params):
                if not isinstance(group, dict) or "params" not in group:
                    raise TypeError(f"params[{k}]: expected a group like the others, a dict with the key 'params'")
            self.parts = [(group["params"], f"params[{k}]['params']") for k, group in enumerate(params)]
        else:
            self.parts = [(params, "params")]

    def options(self, k: int) -> dict[str, Any]:
        """The hyperparameters that group k gives itself."""
        return {key: value for key, value in self.params[k].items() if key != "params"} if self.grouped else {}

    def matching(self, tree: Params, name: str) -> list[tuple[str, Array]]:
        """(name, array) pairs of a tree of this structure, in order; ValueError or TypeError for another one."""
        if not self.grouped:
            return matching(tree, self.params, name)
        if not isinstance(tree, list | tuple) or len(tree) != len(self.parts):
            got = f"{len(tree)}" if isinstance(tree, list | tuple) else type(tree).__name__
            raise ValueError(f"{name}: expected a list of {len(self.parts)}, one for each group of params, got {got}")
        return [pair for k, (part, _) in enumerate(self.parts) for pair in matching(tree[k], part, f"{name}[{k}]")]

    def like(self, values: Sequence[Any]) -> Any:
        """The values, one for each array, in this structure."""
        if not self.grouped:
            return like(self.params, values)
        values = iter(values)
        return [like(part, [next(values) for _ in leaves(part, "")]) for part, _ in self.parts]

    def each(self, values: Iterable[Any]) -> Any:
        """The values, one for each group: as a list, or the only one where there are no groups."""
        return list(values) if self.grouped else next(iter(values))
