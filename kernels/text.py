"""The parts of a kernel's text that depend on its rule and dtypes, shared by all kernel families."""

from . import generate, memory

CPU_NAMES = ("fma", "jit", "load", "maximum", "minimum", "sign", "sqrt", "store")
CUDA_NAMES = (*CPU_NAMES, "add_atomic", "cuda", "device")


class Fields:
    """The text that depends on a rule: which arrays there are, how an element of each is read and written.

    dtypes: of w, g and each state, in that order.
    """

    def __init__(self, rule, dtypes, flags):
        self.names = ("w", "g", *rule.state)
        self.dtypes = dict(zip(self.names, dtypes, strict=True))
        self.written = ("w", *rule.state)
        self.scalars = rule.scalars
        self.sums = memory.accumulator(dtypes[0])
        self.rule = generate.rule_text(rule.function, flags | rule.fixed, rule.absent)
        self.constants = {"constant": f"np.{self.sums}"}

    def addresses(self, names, column):
        """Lines that read the arrays' addresses from the tensor's row of the table."""
        return "\n".join(f"{n}_at = load_int64(row, {k})" for k, n in enumerate(names, column))

    def hyper(self):
        """Lines that read the scalars of the tensor's group."""
        return "\n".join(f"h_{n} = load_sum(hyper_at, {k})" for k, n in enumerate(self.scalars))

    def _rule(self, values):
        return f"rule({', '.join([*values, *(f'h_{n}' for n in self.scalars)])})"

    def update(self, g=None):
        """Lines that update element i of each array; g: the gradient's text, if it is not in memory."""
        read = {n: f"load_{d}({n}_at, i)" for n, d in self.dtypes.items()}
        read["g"] = g or read["g"]
        lines = [f"{', '.join(f'new_{n}' for n in self.written)} = {self._rule(read.values())}"]
        lines += [f"store_{self.dtypes[n]}({n}_at, i, new_{n})" for n in self.written]
        return "\n".join(lines)

    def update_lanes(self, lanes):
        """The same for `lanes` elements from i on: all loads, then the arithmetic, then all stores."""
        lines = [f"{n} = load_{d}_lanes({n}_at, i)" for n, d in self.dtypes.items()]
        for k in range(lanes):
            new = ", ".join(f"{n}_{k}" for n in self.written)
            lines.append(f"{new} = {self._rule(f'{n}[{k}]' for n in self.names)}")
        for n in self.written:
            values = ", ".join(f"{n}_{k}" for k in range(lanes))
            lines.append(f"store_{self.dtypes[n]}_lanes({n}_at, i, ({values}))")
        return "\n".join(lines)


def accessors(dtypes, sums, lanes=None):
    """Constants load_DTYPE and store_DTYPE (and …_lanes) of a generated module; load_sum for the dtype of sums."""
    constants = {}
    for dtype in sorted({*dtypes, sums, "int64"}):
        for verb in ("load", "store"):
            constants[f"{verb}_{dtype}"] = f"{verb}({dtype!r})"
            if lanes and dtype != "int64":
                constants[f"{verb}_{dtype}_lanes"] = f"{verb}({dtype!r}, {lanes})"
    return constants | {"load_sum": f"load_{sums}", "store_sum": f"store_{sums}"}


def lanes_of(dtypes):
    """Elements a thread takes at once: 16 bytes of the narrowest array."""
    return max(memory.VECTOR_BYTES // memory.itemsize(d) for d in dtypes)


def stem(family, *parts):
    """A readable name for a generated module, e.g. update_heavy_ball_nesterov_float32_cpu."""
    return "_".join(dict.fromkeys([family, *(p for p in parts if p)]))


def module(name, device, skeleton, parts, constants):
    """Fill the skeleton and load it for "cpu" or "cuda"."""
    home, names = {"cpu": ("gdgpu.kernels.cpu", CPU_NAMES), "cuda": ("gdgpu.kernels.target", CUDA_NAMES)}[device]
    constants = constants | {"NAME": repr(name)}
    return generate.load(f"{name}_{device}", generate.fill(skeleton, **parts), constants, home, names)
