"""The parts of a kernel's text that depend on its rule, its dtypes and what else a step does."""

from collections.abc import Callable
from typing import Any

from ..backend import memory
from ..backend.quantize import CODES_PER_SCALE as EACH
from . import source
from .language import NORMS

# What a step may do besides its rule: to the gradient, in this order, then to itself.
OPTIONS = ("grad_scale", "clip_value", "clip_norm", "found_inf", "zero_grads", "at_random")
# The row of addresses that such a step reads: of the gradients' scale, found_inf, the count of completed steps, the
# largest value, the factor that clips the norm, and the largest norm.
STEP_CONTEXT = ("scale", "found_inf", "steps", "limit", "factor", "max_norm")
PREPARING = {"grad_scale": ("scale", "float32"), "clip_value": ("limit", "sum"), "clip_norm": ("factor", "sum")}
QUANTIZED = ("signed8", "positive8", "unsigned8")


class Element:
    """What there is for an element, how it is read, made new and written, as text. Names are those of the arrays,
    of a state what rule.named has.

    dtypes: of w, g and each of rule.states, in that order; a state's may be one of QUANTIZED. options: some of OPTIONS.
    """

    def __init__(
        self, rule: Any, dtypes: tuple[str, ...], flags: dict[str, bool], options: tuple[str, ...] = ()
    ) -> None:
        self.rule, self.options = rule, options
        self.names = ("w", "g", *rule.array_names)
        self.dtypes = dict(zip(self.names, dtypes, strict=True))
        self.early = tuple(rule.named[n] for n in rule.early)
        self.late = tuple(n for n in rule.named.values() if n not in self.early)
        self.written = ("w", *rule.copies, *self.late)
        self.quantized = tuple(n for n in rule.named.values() if self.dtypes[n] in QUANTIZED)
        self.plain = tuple(n for n in self.written if n not in self.quantized)
        changed = (*self.written, *self.early)
        narrow = [n for n in changed if is_narrow(self.dtypes[n])]
        self.at_random = tuple(narrow) if "at_random" in options else ()
        self.sums = memory.accumulator(dtypes[0])
        self.flags = flags | rule.fixed
        self.constants = {"constant": f"np.{self.sums}", "zero": f"np.{self.sums}(0)"}
        if {"grad_scale", "found_inf"} & set(options):
            self.constants["load_float32"] = "load('float32')"  # theirs, whatever the dtypes of the arrays
        for name in self._code_functions():
            self.constants[name] = f"quantized({name!r})"

    def _code_functions(self):
        suffix = "_at_random" if self.at_random else ""
        names = ["keyed", "random"] if suffix else []
        for dtype in dict.fromkeys(self.dtypes.values()):
            if dtype in QUANTIZED:
                names += ["top", "larger", f"scale_{dtype}", f"decode_{dtype}", f"encode_{dtype}{suffix}"]
            elif suffix and memory.itemsize(dtype) == 2:
                names.append(dtype + suffix)
        return names

    @property
    def element_bytes(self) -> int:
        """Bytes that an update of one element reads and writes."""
        sizes = {n: memory.itemsize(storage_dtype(d)) for n, d in self.dtypes.items()}
        read = [n for n in self.names if not (n == "w" and "master" in self.names)]
        zeroed = ["g"] if "zero_grads" in self.options else []
        return sum(sizes[n] for n in (*read, *self.written, *zeroed))

    # Before the loop

    def functions(self, phase: str = "rule") -> str:
        """The scalar functions that a phase calls: "rule", "norm" or "gradient", and what prepares the gradient."""
        texts, function = [], {"rule": self.rule.function, "norm": self.rule.norm}.get(phase)
        if function:
            texts.append(source.rule_text(function, self.flags, self.rule.absent, phase))
        if self._prepares:
            steps = {
                "grad_scale": "    g = g / scale",
                "clip_value": "    g = maximum(minimum(g, limit), -limit)",
                "clip_norm": "    g = g * factor",
            }
            lines = [line for option, line in steps.items() if option in self.options]
            texts.append("\n".join(["def gradient(g, scale, limit, factor):", *lines, "    return g"]))
        return "\n\n".join(f"@device\n{text}" for text in texts)

    @property
    def _prepares(self):
        return any(option in self.options for option in PREPARING)

    @property
    def columns(self) -> tuple[str, ...]:
        """What a row of the table holds after the tensor's size: addresses, and the key of its random bits."""
        norms = ["norms"] if self.rule.norm else []
        key = ["key"] if "at_random" in self.options else []
        return ("hyper", *norms, *key, *self.names)

    def addresses(self, column: int, without: tuple[str, ...] = ()) -> str:
        """Lines that read the tensor's row of the table, from this column on."""
        names = [n for n in self.columns if n not in without]
        return "\n".join(f"{n}_at = load_int64(row, {k})" for k, n in enumerate(names, column))

    def scalars(self, norms: bool = True) -> str:
        """Lines that read what is the same for all elements of a tensor."""
        lines = [f"h_{n} = load_sum(hyper_at, {k})" for k, n in enumerate(self.rule.scalars)]
        if norms and self.rule.norm:
            lines += [f"h_{n} = sqrt(load_sum(norms_at, {k}))" for k, n in enumerate(NORMS)]
        if self._prepares:
            for option, (name, dtype) in PREPARING.items():
                value = f"load_{dtype}({context_address(name)}, 0)" if option in self.options else "zero"
                lines.append(f"{name} = {value}")
        if self.at_random:
            lines.append(f"step = load_int64({context_address('steps')}, 0)")
            lines += [f"key_{n} = keyed(key_at, step, {self.names.index(n)})" for n in self.at_random]
        codes = f"((load_int64(row, 0) + {EACH - 1}) >> {EACH.bit_length() - 1}) * {EACH}"
        lines += [f"{n}_scales = {n}_at + {codes}" for n in self.quantized]
        return "\n".join(lines)

    def item(self, columns: int, chunk: str, skip: str, norms: bool = True) -> str:
        """Lines that begin an item of work: elements start … stop-1 of a tensor. columns: of items; chunk: elements."""
        lines = [
            f"tensor = load_int64(items, {columns} * item)",
            f"start = load_int64(items, {columns} * item + 1)",
            "row = table + tensor * ROW_BYTES",
            f"stop = min(start + {chunk}, load_int64(row, 0))",
        ]
        return "\n".join([*lines, self.addresses(column=1), skip, self.scalars(norms)])

    # An element

    def load(self, name: str, index: str) -> str:
        """The value of an element."""
        dtype = self.dtypes[name]
        if dtype in QUANTIZED:
            return f"decode_{dtype}(load_uint8({name}_at, {index}), {name}_scale)"
        return f"load_{dtype}({name}_at, {index})"

    def encode(self, name: str, value: str, index: str) -> str:
        """A quantized state's new value as its code."""
        random = [f"random(key_{name}, {index})"] if name in self.at_random else []
        suffix = "_at_random" if random else ""
        return f"encode_{self.dtypes[name]}{suffix}({', '.join([value, f'{name}_scale', *random])})"

    def new(self, old: dict[str, str], index: str, suffix: str = "") -> tuple[list[str], dict[str, str]]:
        """(lines that make the new values, name -> what is to be stored); old: name -> value, both as text."""
        made = {n: f"new_{n}{suffix}" for n in ("w", *self.late)}
        lines = [f"{', '.join(made.values())} = {self._call('rule', self.rule.function, old)}"]
        stored = made | {"master": made["w"]}
        if "ema" in old:
            stored["ema"] = f"fma(h_ema_decay, {old['ema']}, h_ema_rest * {made['w']})"
        return lines, {n: self._narrowed(n, stored[n], index) for n in self.written}

    def _narrowed(self, name, value, index):
        if name not in self.at_random or name in self.quantized:
            return value
        return f"{self.dtypes[name]}_at_random({value}, random(key_{name}, {index}))"

    def direction(self, old: dict[str, str], index: str, suffix: str = "") -> tuple[list[str], dict[str, str]]:
        """The same for the first phase: the lines make u, whose norm is taken, and the early states."""
        made = {n: f"new_{n}{suffix}" for n in self.early}
        lines = [f"{', '.join([f'u{suffix}', *made.values()])} = {self._call('norm', self.rule.norm, old)}"]
        return lines, {n: self._narrowed(n, value, index) for n, value in made.items()}

    def gradient(self, old: dict[str, str]) -> str:
        """The gradient as the rule sees it."""
        return f"gradient({old['g']}, scale, limit, factor)" if self._prepares else old["g"]

    def taken(self, function: Callable | None) -> list[str]:
        """What the rule, or its norm, takes, as it is named here."""
        return [self.rule.named.get(n, n) for n in self.rule.parameters(function)]

    def _call(self, name, function, old):
        taken = self.taken(function)[2:]
        values = [old.get("master", old["w"]), self.gradient(old), *(old.get(n, f"h_{n}") for n in taken)]
        return f"{name}({', '.join(values)})"

    def update(self, g: str | None = None) -> str:
        """Lines that update element i of each array; g: the gradient's text, if it is not in memory."""
        old = {n: self.load(n, "i") for n in self.names} | ({"g": g} if g else {})
        lines, stored = self.new(old, "i")
        lines += [f"store_{self.dtypes[n]}({n}_at, i, {value})" for n, value in stored.items()]
        return "\n".join(lines + ([] if g else self.zero("i")))

    def update_lanes(self, lanes: int) -> str:
        """The same for `lanes` elements from i on: all loads, then the arithmetic, then all stores."""
        lines = [f"{n} = load_{d}_lanes({n}_at, i)" for n, d in self.dtypes.items()]
        values = {n: [] for n in self.written}
        for k in range(lanes):
            made, stored = self.new({n: f"{n}[{k}]" for n in self.names}, f"i + {k}", f"_{k}")
            lines += made
            for n, value in stored.items():
                lines.append(f"to_{n}_{k} = {value}")
                values[n].append(f"to_{n}_{k}")
        lines += [f"store_{self.dtypes[n]}_lanes({n}_at, i, ({', '.join(each)}))" for n, each in values.items()]
        return "\n".join(lines + self.zero("i", lanes))

    def zero(self, index: str, lanes: int = 1) -> list[str]:
        """Lines that make the gradient 0, if the step does that."""
        suffix, value = ("_lanes", f"({'zero, ' * lanes})") if lanes > 1 else ("", "zero")
        return [f"store_{self.dtypes['g']}{suffix}(g_at, {index}, {value})"] if "zero_grads" in self.options else []


def storage_dtype(dtype: str) -> str:
    """How memory holds it: codes are bytes."""
    return "uint8" if dtype in QUANTIZED else dtype


def is_narrow(dtype: str) -> bool:
    """Whether what is computed must be rounded to be held."""
    return memory.itemsize(storage_dtype(dtype)) < 4


def context_address(name: str) -> str:
    """The text of one of the addresses STEP_CONTEXT."""
    return f"load_int64(context, {STEP_CONTEXT.index(name)})"
