"""Parameter groups: tensors that share hyperparameters, as in torch.optim."""

import weakref

from .arrays import leaves, like, matching


class Group:
    """One of an optimizer's groups. `lr` is assignable; None follows the optimizer's lr.

    hyper, flags: numbers and bools as the rule takes them; options: as the user named them; kernel: what its tensors'
    kernels are made from, the rule and its flags.
    """

    __slots__ = ("__weakref__", "_lr", "_owner", "flags", "hyper", "kernel", "options", "params", "rule", "tensors")

    def __init__(self, optimizer, params, lr, options):
        self._owner = weakref.ref(optimizer)  # no cycle: an optimizer that is dropped is gone at once
        self.params, self._lr = params, lr
        self.assign(optimizer, options)
        self.tensors = range(0)  # which of the optimizer's they are

    @property
    def _optimizer(self):
        optimizer = self._owner()
        if optimizer is None:
            raise ReferenceError("the optimizer of this group is gone: keep it")
        return optimizer

    @property
    def lr(self):
        """A float, or a function of the number of completed steps."""
        return self._optimizer.lr if self._lr is None else self._lr

    @lr.setter
    def lr(self, value):
        self._optimizer._assign_lr(self, value)

    def assign(self, optimizer, options):
        """Take these hyperparameters, as the user names them."""
        self.rule, self.hyper, self.flags = optimizer._check(**options)
        self.kernel = self.rule, tuple((name, self.flags[name]) for name in self.rule.flags)
        self.options = {name: (self.hyper | self.flags).get(name, value) for name, value in options.items()}


class Tree:
    """The structure of params: one array, a list, a dict, or a list of groups of these; grads have it too.

    parts: (params, name) of each group, or of all there is.
    """

    def __init__(self, params):
        self.params = params
        self.grouped = isinstance(params, list | tuple) and any(isinstance(p, dict) for p in params)
        if self.grouped:
            for k, group in enumerate(params):
                if not isinstance(group, dict) or "params" not in group:
                    raise TypeError(f"params[{k}]: expected a group like the others, a dict with the key 'params'")
            self.parts = [(group["params"], f"params[{k}]['params']") for k, group in enumerate(params)]
        else:
            self.parts = [(params, "params")]

    def options(self, k):
        """The hyperparameters that group k gives itself."""
        return {key: value for key, value in self.params[k].items() if key != "params"} if self.grouped else {}

    def matching(self, tree, name):
        """(name, array) pairs of a tree of this structure, in order; ValueError or TypeError for another one."""
        if not self.grouped:
            return matching(tree, self.params, name)
        if not isinstance(tree, list | tuple) or len(tree) != len(self.parts):
            got = f"{len(tree)}" if isinstance(tree, list | tuple) else type(tree).__name__
            raise ValueError(f"{name}: expected a list of {len(self.parts)}, one for each group of params, got {got}")
        return [pair for k, (part, _) in enumerate(self.parts) for pair in matching(tree[k], part, f"{name}[{k}]")]

    def like(self, values):
        """The values, one for each array, in this structure."""
        if not self.grouped:
            return like(self.params, values)
        values = iter(values)
        return [like(part, [next(values) for _ in leaves(part, "")]) for part, _ in self.parts]

    def each(self, values):
        """The values, one for each group: as a list, or the only one where there are no groups."""
        return list(values) if self.grouped else next(iter(values))
