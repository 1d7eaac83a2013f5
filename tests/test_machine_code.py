"""What the CUDA kernels compile to, with no GPU: ptxas's resources and the disassembled instructions."""

import os
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
from bits_cases import flags_of
from references import DTYPES, dtype_of, sums_of

from gdgpu.kernels import accumulate, fused, reduce, rules, update

pytest.importorskip("numba_cuda", reason="numba-cuda compiles CUDA kernels: install gdgpu[test]")
pytestmark = pytest.mark.skipif(
    os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0"), reason="the simulator compiles nothing"
)

OTHER_ARCHITECTURES = ((8, 0), (12, 0))
DOUBLE = re.compile(r"\b(D(ADD|MUL|FMA|SETP|MNMX)\b|(F2F|F2I|I2F|F2FP)\S*F64|MUFU\.\w+64)")
LOCAL = re.compile(r"\b(LDL|STL)\b")
FLOAT_ATOMIC = re.compile(r"\b(ATOM|ATOMG|ATOMS|RED|REDUX)\.\S*F(16|32|64)")


def tool(name):
    """The path of a program of the nvidia-cuda-* wheels; skips where it is not installed."""
    nvidia = pytest.importorskip("nvidia", reason=f"{name} comes with gdgpu[test]")
    for folder in nvidia.__path__:
        for path in sorted(Path(folder).glob(f"cu*/bin/{name}*")):
            if path.stem == name:
                return path
    pytest.skip(f"{name} is not installed: it comes with gdgpu[test] on Linux")


def momentum(dtype):
    """(rule, flags, dtypes of w and its state) of plain momentum."""
    rule = rules.RULES["momentum"]
    return rule, flags_of(rule)[0], (dtype, sums_of(dtype).name)


def update_of(dtype):
    rule, flags, (w, state) = momentum(dtype)
    return update.kernel("cuda", rule, flags, (w, dtype, state))


FAMILIES = {
    "update": update_of,
    "reduce": lambda dtype: reduce.kernel("cuda", dtype, False),
    "reduce weighted": lambda dtype: reduce.kernel("cuda", dtype, True),
    "fused": lambda dtype: fused.kernel("cuda", *momentum(dtype), dtype, False),
    "fused weighted": lambda dtype: fused.kernel("cuda", *momentum(dtype), dtype, True),
    "accumulate": lambda dtype: accumulate.kernels("cuda", dtype, False).add,
    "accumulate weighted": lambda dtype: accumulate.kernels("cuda", dtype, True).add,
    "collect": lambda dtype: accumulate.kernels("cuda", dtype).collect,
}
COMPILED = [
    *((family, dtype, (9, 0)) for family in FAMILIES for dtype in DTYPES),
    *((family, "float32", arch) for arch in OTHER_ARCHITECTURES for family in ("update", "reduce", "fused weighted")),
]
RULES = [(name, flags, "float32") for name, rule in rules.RULES.items() for flags in flags_of(rule)]
RULES += [(name, flags_of(rule)[0], "float64") for name, rule in rules.RULES.items()]


@pytest.fixture(scope="module")
def assemble(tmp_path_factory):
    """assemble(kernel, arch, *options): (what ptxas says of resources, the instructions)."""
    folder, ptxas, nvdisasm = tmp_path_factory.mktemp("sass"), tool("ptxas"), tool("nvdisasm")
    source, binary = folder / "kernel.ptx", folder / "kernel.cubin"

    @cache
    def ptx(kernel, arch):
        return kernel.ptx(arch)

    @cache
    def run(kernel, arch, *options):
        source.write_text(ptx(kernel, arch))
        command = [ptxas, "-v", f"-arch=sm_{arch[0]}{arch[1]}", *options, source, "-o", binary]
        said = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert said.returncode == 0, said.stderr
        shown = subprocess.run([nvdisasm, "-c", binary], capture_output=True, text=True, timeout=120)
        assert shown.returncode == 0, shown.stderr
        return said.stderr, shown.stdout

    return run


def arch_label(value):
    return f"sm_{value[0]}{value[1]}" if isinstance(value, tuple) else value


def wide(instruction, sass):
    return len(re.findall(rf"\b{instruction}\.E\S*\.128\b", sass))


@pytest.mark.parametrize(("family", "dtype", "arch"), COMPILED, ids=arch_label)
def test_instructions(family, dtype, arch, assemble):
    said, sass = assemble(FAMILIES[family](dtype), arch)
    assert "0 bytes spill stores, 0 bytes spill loads" in said and "0 bytes stack frame" in said
    assert len(re.findall(r"\bEXIT\b", sass)) >= 1  # it was disassembled at all
    assert not LOCAL.search(sass)
    assert not FLOAT_ATOMIC.search(sass)
    assert bool(DOUBLE.search(sass)) == (dtype == "float64")
    if family.split()[0] in ("update", "reduce", "fused"):
        assert wide("LDG", sass)
    if family == "update":
        # w and g take one vector each, the velocity two where it is twice as wide as w
        velocity = sums_of(dtype).itemsize // dtype_of(dtype).itemsize
        assert wide("LDG", sass) >= 2 + velocity and wide("STG", sass) >= 1 + velocity


def label(value):
    return "+".join(name for name, on in value if on) or "no flags" if isinstance(value, tuple) else value


@pytest.mark.parametrize(("name", "flags", "dtype"), RULES, ids=label)
def test_nothing_is_contracted_but_the_rules_own_fma(name, flags, dtype, assemble):
    rule, sums = rules.RULES[name], sums_of(dtype).name
    kernel = update.kernel("cuda", rule, flags, (dtype, dtype, *[sums] * len(rule.state)))
    said, sass = assemble(kernel, (9, 0))
    _, apart = assemble(kernel, (9, 0), "--fmad=false")
    assert sass == apart
    assert "0 bytes spill stores, 0 bytes spill loads" in said and not LOCAL.search(sass)
    assert wide("LDG", sass) and wide("STG", sass)
    assert bool(DOUBLE.search(sass)) == (dtype == "float64")


@pytest.mark.parametrize("family", ("reduce weighted", "fused", "accumulate weighted", "collect"))
def test_nothing_is_contracted_in_reductions(family, assemble):
    kernel = FAMILIES[family]("float32")
    assert assemble(kernel, (9, 0))[1] == assemble(kernel, (9, 0), "--fmad=false")[1]


def test_contraction_would_be_noticed(assemble):
    """A product and a sum that a rule leaves to the compiler are contracted, unless told otherwise."""
    kernel = update.kernel("cuda", rules.Rule(contracted), (), ("float32", "float32"))
    assert assemble(kernel, (9, 0))[1] != assemble(kernel, (9, 0), "--fmad=false")[1]


def contracted(w, g, lr):
    return w - lr * g
