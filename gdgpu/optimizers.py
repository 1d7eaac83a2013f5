"""Optimizers: parameters updated in place, one fused launch a step for each combination of dtypes."""

import numpy as np

from .arrays import (
    contiguous,
    disjoint,
    kernel_device,
    leaves,
    like,
    matching,
    on_device_of,
    view,
    writable,
)
from .checks import flag, number, one_of
from .kernels.memory import accumulator
from .kernels.rules import RULES
from .kernels.threads import uninterrupted
from .launches import Samples, Step
from .reduction import REDUCTIONS, batch_views, same_sums


class Optimizer:
    """What every optimizer has. A subclass says in `_check` which rule its hyperparameters call for.

    params: one array, a list of them, or a dict name -> array; C-contiguous, writable, float16, bfloat16, float32
    or float64, all on one device. They are updated in place, and their memory must stay where it is. State is
    kept in the accumulator's dtype: float64 for float64 parameters, else float32.

    lr: a float >= 0, or a function of the number of completed steps (from 0). Assignable.
    """

    def __init__(self, params, lr, **hyper):
        rule, self._hyper, self._flags = self._check(**hyper)
        views = [writable(view(array, name)) for name, array in leaves(params, "params")]
        self.kernel_device, self._xp = kernel_device(views) if views else ("cpu", np)
        disjoint(views)
        self.lr = lr
        self.params, self.steps = params, 0
        self.rule, self._views = RULES[rule], views
        with on_device_of(views):
            self._state = [[self._xp.zeros(v.shape, accumulator(v.dtype)) for _ in self.rule.state] for v in views]
        self._launches = {}

    @property
    def name(self):
        """The optimizer's name, in lower case."""
        return type(self).__name__.lower()

    @property
    def lr(self):
        return self._lr

    @lr.setter
    def lr(self, value):
        self._lr = value if callable(value) else number("lr", value)

    def current(self):
        """The hyperparameters of the next step, by name: floats, and bools for flags."""
        lr = number("lr", self._lr(self.steps)) if callable(self._lr) else self._lr
        return {"lr": lr} | self._hyper | self._flags

    def step(self, grads):
        """Update the parameters with a gradient: w, *state <- rule(w, g, *state).

        grads: arrays in the structure and shapes of params, C-contiguous, on their device; a gradient's dtype may
        be narrower than its parameter's (float16 for float32), but not float64 for a smaller one or the reverse.
        Raises ValueError or TypeError before anything is touched.
        """
        grads = [view(array, name) for name, array in matching(grads, self.params, "grads")]
        for g, w in zip(grads, self._views, strict=True):
            if g.shape != w.shape:
                raise ValueError(f"{g.name}: expected shape {w.shape} like params, got {g.shape}")
            same_sums(contiguous(g), w)
        self._run(grads, Step)

    def step_samples(self, G, weights=None, reduction="mean"):
        """Reduce per-sample gradients over the batch and update, in one pass: w, *state <- rule(w, g, *state).

        g = 1/B * sum_n c_n G[n] ("mean"; "sum" leaves 1/B out; no weights: c_n = 1). G: arrays (B, *shape) in the
        structure of params, any row stride, each sample C-contiguous. weights: (B,), cast to the accumulator's dtype.
        B = 0: g = 0, and the step is taken. Raises ValueError or TypeError before anything is touched.
        """
        one_of("reduction", reduction, REDUCTIONS)
        G, count = batch_views(G, self.params, self._views)
        self._run(G, Samples, count, weights, reduction)

    def _run(self, gradients, kind, *args):
        """Check, compile and lay out every launch first, then run them: the step happens whole or not at all."""
        if self._views:
            kernel_device([self._views[0], *gradients])
        with on_device_of(self._views):
            ready = []
            for key, tensors in self._combinations(gradients):
                launch = self._launches.get((kind, key, tensors))
                if launch is None:
                    launch = self._launches[kind, key, tensors] = kind(self, tensors, key[1])
                ready.append(launch.prepare([gradients[k] for k in tensors], *args))
            with uninterrupted():
                for run in ready:
                    run()
                self.steps += 1

    def _combinations(self, gradients):
        """The tensors of each combination of dtypes (of w, of g)."""
        members = {}
        for k, (w, g) in enumerate(zip(self._views, gradients, strict=True)):
            members.setdefault((w.dtype, g.dtype), []).append(k)
        return [(key, tuple(tensors)) for key, tensors in members.items()]

    def _values(self):
        """The scalars that the rule sees in the next step, by name."""
        return self.current()

    def state_dict(self):
        """{"optimizer", "steps", "hyper", "state"}: plain values, and copies of the state arrays.

        state: name -> arrays in the structure of params. hyper holds the lr of the next step.
        """
        state = {
            name: like(self.params, [held[k].copy() for held in self._state]) for k, name in enumerate(self.rule.state)
        }
        return {"optimizer": self.name, "steps": self.steps, "hyper": self.current(), "state": state}

    def load_state_dict(self, state_dict):
        """Continue from a state_dict of the same optimizer over parameters of the same shapes.

        Hyperparameters come from it too, but a function assigned to lr stays. Raises ValueError or TypeError
        naming what differs, before anything is touched.
        """
        expected = {"optimizer", "steps", "hyper", "state"}
        if not isinstance(state_dict, dict) or state_dict.keys() != expected:
            raise ValueError(f"state_dict: expected a dict with the keys {sorted(expected)}")
        if state_dict["optimizer"] != self.name:
            raise ValueError(f"state_dict: expected one of {self.name!r}, got one of {state_dict['optimizer']!r}")
        steps, hyper, state = (state_dict[k] for k in ("steps", "hyper", "state"))
        if not isinstance(steps, int) or steps < 0:
            raise ValueError(f"state_dict['steps']: expected an int >= 0, got {steps!r}")
        for part, given, names in (("hyper", hyper, self.current()), ("state", state, self.rule.state)):
            if not isinstance(given, dict) or given.keys() != set(names):
                got = sorted(given) if isinstance(given, dict) else type(given).__name__
                raise ValueError(f"state_dict[{part!r}]: expected a dict with the keys {sorted(names)}, got {got}")
        try:
            lr = number("lr", hyper["lr"])
            rule, checked, flags = self._check(**{name: hyper[name] for name in hyper if name != "lr"})
        except (TypeError, ValueError) as error:
            raise ValueError(f"state_dict['hyper']: {error}") from None
        if RULES[rule] is not self.rule:
            raise ValueError(f"state_dict['hyper']: they call for rule {rule}, this optimizer runs {self.rule.name}")
        copies = []
        for k, name in enumerate(self.rule.state):
            where = f"state_dict['state'][{name!r}]"
            for (label, array), held in zip(matching(state[name], self.params, where), self._state, strict=True):
                saved = view(array, label)
                if saved.shape != held[k].shape or saved.dtype != str(held[k].dtype):
                    raise ValueError(
                        f"{label}: expected {held[k].dtype} {held[k].shape}, got {saved.dtype} {saved.shape}"
                    )
                copies.append((held[k], saved.owner))
        for target, source in copies:
            target[...] = self._xp.asarray(source.get() if self._xp is np and hasattr(source, "get") else source)
        self.steps = steps
        self._hyper, self._flags = checked, flags
        self._launches.clear()  # flags are compiled in
        if not callable(self._lr):
            self.lr = lr


class SGD(Optimizer):
    """Stochastic gradient descent in PyTorch's form.

    g += weight_decay * w; b = momentum * b + (1 - dampening) * g, the first time b = g; u = b, or with nesterov
    u = g + momentum * b; w -= lr * u. maximize: g = -g first. momentum = 0 keeps no state.

    lr >= 0, 0 <= momentum < 1, 0 <= dampening <= 1, weight_decay >= 0; nesterov needs momentum > 0 and
    dampening = 0. Raises ValueError or TypeError naming the argument.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html
    """

    def __init__(self, params, lr, momentum=0, dampening=0, weight_decay=0, nesterov=False, maximize=False):
        super().__init__(
            params,
            lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
        )

    @staticmethod
    def _check(momentum, dampening, weight_decay, nesterov, maximize):
        hyper = {
            "momentum": number("momentum", momentum, high=1, high_is_open=True),
            "dampening": number("dampening", dampening, high=1),
            "weight_decay": number("weight_decay", weight_decay),
        }
        flags = {"nesterov": flag("nesterov", nesterov), "maximize": flag("maximize", maximize)}
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError(f"nesterov: needs momentum > 0 and dampening = 0, got {momentum:g} and {dampening:g}")
        return "sgd" if momentum else "gradient_descent", hyper, flags

    def _values(self):
        values = self.current()
        if self.steps == 0:
            values["dampening"] = 0.0  # the first gradient enters the buffer whole
        return values


class Momentum(Optimizer):
    """Gradient descent with momentum, the heavy ball: v = momentum * v - lr * g; w = w + v.

    Equal to v_t = -lr * sum_k momentum^k g_{t-k}. nesterov: w = w + momentum * v - lr * g, with the new v.
    g includes weight_decay * w; maximize: g = -g first. When lr changes, each step keeps the lr it was made with.

    lr >= 0, 0 <= momentum < 1, weight_decay >= 0. Raises ValueError or TypeError naming the argument.
    Source: Polyak 1964, doi:10.1016/0041-5553(64)90137-5; nesterov as in Sutskever et al., ICML 2013.
    """

    def __init__(self, params, lr, momentum=0.9, nesterov=False, weight_decay=0, maximize=False):
        super().__init__(params, lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, maximize=maximize)

    @staticmethod
    def _check(momentum, nesterov, weight_decay, maximize):
        hyper = {
            "momentum": number("momentum", momentum, high=1, high_is_open=True),
            "weight_decay": number("weight_decay", weight_decay),
        }
        flags = {"nesterov": flag("nesterov", nesterov), "maximize": flag("maximize", maximize)}
        return "momentum", hyper, flags
