"""Parameter groups: tensors that share hyperparameters, as in torch.optim."""

import weakref


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
