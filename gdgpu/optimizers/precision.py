"""How state lies in memory: in the accumulator's dtype, in bfloat16, or in 8-bit codes with a scale for every 256."""

import inspect
from typing import Any, Literal, TypedDict

import numpy as np

from ..core.arrays import View, view
from ..core.checks import count, flag, number, one_of
from ..kernels.backend.buffers import Buffer, address_of
from ..kernels.backend.memory import accumulator
from ..kernels.optimizers import quantized_update, update
from ..kernels.rules.rule import COPIES, Rule

DTYPES = ("float32", "bfloat16", "uint8")


class Common(TypedDict, total=False):
    """Keywords that all optimizers have: see Optimizer."""

    master: bool
    ema: float | None
    state_dtype: Literal["float32", "bfloat16", "uint8"] | None
    rounding: Literal["nearest", "stochastic"]
    seed: int


class Precision:
    """What an optimizer keeps, and how: the keywords that all of them have.

    master: 16-bit parameters get float32 copies, which the rule updates; the parameters are their rounded images.
    ema: the decay of a moving average of the weights, a = ema * a + (1 - ema) * w, 0 <= ema < 1; None for none.
    state_dtype: of the rule's state. rounding: of 16-bit parameters and of state. seed: of the random bits.

    In 8 bits 256 elements share a scale. No step is far longer than the longest that float32 state gives in such a
    block; elements whose gradients are below 1/500 of its largest move too little (kernels/backend/quantize.py).
    Rounded to nearest, a state that is to move by less than half a code's distance stands still: of Adam on constant
    gradients that makes steps up to 5 times as long, of Adagrad, whose sum only grows, ever longer ones.
    """

    def __init__(
        self,
        master: bool = False,
        ema: float | None = None,
        state_dtype: str | None = None,
        rounding: str = "nearest",
        seed: int = 0,
    ) -> None:
        self.copies = tuple(n for n, on in zip(COPIES, (flag("master", master), ema is not None), strict=True) if on)
        decay = number("ema", 0.0 if ema is None else ema, high=1, high_is_open=True)
        self.scalars = {"ema_decay": decay, "ema_rest": 1 - decay}
        self.state_dtype = one_of("state_dtype", state_dtype, (None, *DTYPES))
        self.at_random = one_of("rounding", rounding, ("nearest", "stochastic")) == "stochastic"
        self.seed = count("seed", seed)

    @property
    def keywords(self) -> dict[str, Any]:
        """What it would be made with today, but for what is so by default."""
        keywords = {
            "master": "master" in self.copies,
            "ema": self.scalars["ema_decay"] if "ema" in self.copies else None,
            "state_dtype": self.state_dtype,
            "rounding": "stochastic" if self.at_random else "nearest",
            "seed": self.seed,
        }
        return {name: value for name, value in keywords.items() if value != KEYWORDS[name]}

    def check(self, v: View, rule: Rule, name: str) -> None:
        """ValueError unless a parameter, the View v, of the optimizer of this name can be kept so."""
        if "master" in self.copies and v.itemsize != 2:
            raise ValueError(f"master: expected float16 or bfloat16 params to keep wider, but {v.name} is {v.dtype}")
        if self.state_dtype and accumulator(v.dtype) != "float32":
            raise ValueError(f"state_dtype: {v.name} is {v.dtype}, whose state is kept in {accumulator(v.dtype)}")
        if self.state_dtype == "uint8":
            self._check_codes(rule, name)

    @staticmethod
    def _check_codes(rule: Rule, name: str) -> None:
        if rule.early:
            raise ValueError(f"state_dtype: {name} keeps its state in float32 or bfloat16, got 'uint8'")
        if len(rule.state) > quantized_update.STATES:
            states = len(rule.state)
            raise ValueError(
                f"state_dtype: 'uint8' is for {quantized_update.STATES} states at most, {name} has {states}"
            )
        if signed := [n for n in rule.divisors if n not in rule.nonnegative]:
            hint = "name it in nonnegative, or in squares if it is under a root"
            raise ValueError(f"state_dtype: 'uint8' may round {signed[0]} to 0, by which {name} divides; {hint}")

    def new(self, device: str, xp: Any, v: View, rule: Rule, name: str, initial: float) -> "State":
        """The State of this name of a parameter, the View v."""
        sums = accumulator(v.dtype)
        state = State(device, xp, v.shape, self._dtype(rule, name, sums), sums)
        if name in COPIES:
            state.set(v)
        elif initial:
            state.set(view(xp.full(v.shape, initial, sums), name))
        return state

    def _dtype(self, rule, name, sums):
        """The dtype, as kernels call it."""
        if name in COPIES or self.state_dtype in (None, "float32"):
            return sums
        if self.state_dtype == "bfloat16":
            return "bfloat16"
        return rule.code(name)

    def keys(self, tensors: int) -> list[int]:
        """What the random bits of each tensor begin with."""
        return np.random.SeedSequence(self.seed).generate_state(tensors, np.uint64).view(np.int64).tolist()


KEYWORDS = {name: p.default for name, p in inspect.signature(Precision).parameters.items()}  # and their defaults


class State:
    """An array of state. `array` is what kernels read and write; get and set speak of values of dtype `sums`."""

    def __init__(self, device: str, xp: Any, shape: tuple[int, ...], dtype: str, sums: str) -> None:
        self.device, self.xp, self.shape, self.dtype, self.sums = device, xp, shape, dtype, sums
        self.size = int(np.prod(shape))
        if dtype == sums:
            self.array = xp.zeros(shape, sums)
        elif dtype == "bfloat16":
            self.array = xp.zeros(shape, np.uint16)
        else:
            self.array = xp.zeros(quantized_update.nbytes(self.size), np.uint8)
        self.address = address_of(self.array)

    def get(self) -> Any:
        """A copy of the values."""
        if self.dtype == self.sums:
            return self.array.copy()
        values, copy = self.xp.empty(self.shape, self.sums), self.array.copy()  # an update writes what it reads
        self._convert(_READ, address_of(values), self.sums, address_of(copy))
        return values

    def set(self, view: View) -> None:
        """Take the values of a View of an array of this shape on this device."""
        if self.dtype == self.sums == view.dtype:
            self.array[...] = view.owner
        else:
            self._convert(_WRITE, view.address, view.dtype, self.address)

    def _convert(self, rule, w_at, w_dtype, array_at):
        kernel = update.kernel(self.device, rule, (), (w_dtype, w_dtype, self.dtype))
        plan = update.plan(self.device, [self.size])
        rows = np.array([(self.size, 0, w_at, w_at, array_at)], np.int64)
        table, items = Buffer(self.xp, rows), Buffer(self.xp, plan.items)
        update.launcher(self.device, kernel, table, items, plan.chunk, nbytes=0)()


def _read(w, g, state):
    return state, state


def _write(w, g, state):
    return w, w


_READ, _WRITE = (Rule(f, name=f.__name__[1:], state=("state",)) for f in (_read, _write))
