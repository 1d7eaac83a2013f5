"""CUDA kernels compiled and disassembled with no GPU: what the machine code must and must not contain."""

import importlib.util
import os
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
from references import DTYPES, sums_of

from gdgpu.kernels.rules import RULES

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed: kernels cannot be compiled")
pytestmark = pytest.mark.skipif(
    os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0"), reason="the simulator compiles nothing"
)

FAMILIES = (*(f"update/{name}" for name in RULES), "reduce", "reduce/weighted", "fused", "accumulate", "collect")
CASES = [(family, dtype, (9, 0)) for family in FAMILIES for dtype in DTYPES]
CASES += [(family, "float32", arch) for family in ("update/heavy_ball", "fused") for arch in ((8, 0), (10, 0), (12, 0))]
FLOAT64 = re.compile(r"\b(DADD|DMUL|DFMA|DSETP|F2F\.F64\.\w+|F2F\.F32\.F64|I2F\.F64\S*)")
LOCAL = re.compile(r"\b(LDL|STL)\b")


@cache
def tool(name):
    """ptxas or nvdisasm of the wheels: a system's own may be older than the PTX."""
    found = importlib.util.find_spec("nvidia")
    for root in found.submodule_search_locations if found else ():
        for path in Path(root).glob(f"cu*/bin/{name}"):
            return path
    pytest.skip(f"{name} is not installed: pip install nvidia-cuda-{'nvcc' if name == 'ptxas' else name[2:]}")


def kernel(family, dtype):
    """The CUDA kernel of a family for arrays of this dtype."""
    from gdgpu.kernels import accumulate, fused, reduce, update

    sums = sums_of(dtype).name
    family, _, variant = family.partition("/")
    rule = RULES[variant if family == "update" else "heavy_ball"]
    flags, states = tuple((name, True) for name in rule.flags), [sums] * len(rule.state)
    if family == "update":
        return update.kernel("cuda", rule, flags, (dtype, dtype, *states))
    if family == "fused":
        return fused.kernel("cuda", rule, flags, (dtype, *states), dtype)
    if family == "reduce":
        return reduce.kernel("cuda", dtype, variant == "weighted")
    return (
        accumulate.kernels("cuda", dtype).add if family == "accumulate" else accumulate.kernels("cuda", dtype).collect
    )


@cache
def ptx(family, dtype, capability):
    return kernel(family, dtype).ptx(capability)


def assemble(source, capability, directory, *options):
    """(what ptxas says of registers and spills, the instructions)."""
    text, cubin = directory / "kernel.ptx", directory / "kernel.cubin"
    text.write_text(source)
    arch = f"-arch=sm_{capability[0]}{capability[1]}"
    made = subprocess.run([tool("ptxas"), "-v", arch, *options, text, "-o", cubin], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    listing = subprocess.run([tool("nvdisasm"), "-c", cubin], capture_output=True, text=True, check=True).stdout
    instructions = re.findall(r"/\*[0-9a-f]{4,}\*/\s+([^;]+);", listing)
    assert len(instructions) > 20
    return made.stderr, instructions


def matching(pattern, instructions):
    return [line for line in instructions if re.search(pattern, line)]


@pytest.mark.parametrize(("family", "dtype", "capability"), CASES)
def test_machine_code(family, dtype, capability, tmp_path):
    report, code = assemble(ptx(family, dtype, capability), capability, tmp_path)
    assert set(re.findall(r"(\d+) bytes spill", report)) == {"0"}
    assert not matching(LOCAL, code)
    if dtype != "float64":
        assert not matching(FLOAT64, code)
    # 255 registers a thread would leave room for one block only; 64 leave room for 1024 threads.
    assert int(re.search(r"Used (\d+) registers", report)[1]) <= 64
    if family.startswith(("update", "reduce", "fused")):
        assert matching(r"\bLDG\.E\.128\b", code), "no 128-bit load"
    if family.startswith("update"):
        assert matching(r"\bSTG\.E\.128\b", code), "no 128-bit store"
    assert not matching(r"^\s*(@!?U?P\d+\s+)?(LD|ST)\.", code), "a generic load or store: the address space is lost"


@pytest.mark.parametrize(("family", "dtype", "capability"), CASES)
def test_nothing_is_contracted_but_the_rule_s_own_fma(family, dtype, capability, tmp_path):
    source = ptx(family, dtype, capability)
    _, free = assemble(source, capability, tmp_path)
    _, strict = assemble(source, capability, tmp_path, "--fmad=false")
    assert free == strict


def test_the_gate_sees_a_contraction_and_float64(tmp_path):
    """A rule with a plain multiply-add, and a kernel in float64: each check finds what it is there for."""
    from gdgpu.kernels.target import cuda, load, store
    from gdgpu.kernels.target import jit as cuda_jit

    load_float, store_float = load("float32"), store("float32")

    @cuda_jit("void(int64, float32)")
    def contracted(address, lr):
        i = cuda.threadIdx.x
        store_float(address, i, load_float(address, i) - lr * load_float(address, i + 1))
        store_float(address, i + 64, load_float(address, i + 64) - lr * load_float(address, i + 65))

    @cuda_jit("void(int64, float32)")
    def widened(address, lr):
        i = cuda.threadIdx.x
        store_float(address, i, load_float(address, i) * 0.1 + lr)

    _, free = assemble(contracted.ptx((9, 0)), (9, 0), tmp_path)
    _, strict = assemble(contracted.ptx((9, 0)), (9, 0), tmp_path, "--fmad=false")
    assert free != strict
    assert matching(FLOAT64, assemble(widened.ptx((9, 0)), (9, 0), tmp_path)[1])
