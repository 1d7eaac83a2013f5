"""One kernel of every family and a few answers: what a new Python, NumPy, Numba or CUDA breaks first."""

import struct

import numpy as np
import pytest

from gdgpu.kernels.backend import geometry

pytest.importorskip("numba_cuda", reason="needs numba-cuda: install gdgpu[test]")
from support import ROOT
from support.references import assert_same_bits

CUDA = 190  # e_machine of ELF
CASES = (
    "update/adam/float32/float32",
    "fused/momentum",
    "reduce/float32/33x127/weighted",
    "reduce/bfloat16/33x3/plain",
    "norms/lars",
    "kept/Adam/state in 8 bits at random",
    "layer/relu/float32/False/5/12",
    "clipped/narrow/float32",
    "statistics/float16",
    "median_samples/float16",
)
ANSWER = f"""
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from support import bits
np.savez(sys.argv[2], *(array for name in {CASES!r} for array in bits.answers(name)))
"""


def families():
    """A float32 kernel of each, by the module that it is generated from, and one that stores codes."""
    from gdgpu.kernels.catalogue import ROWS

    return {row.family: row for row in reversed(ROWS) if row.dtype == "float32"}


@pytest.mark.full  # test_machine_code.py compiles some of each family
@pytest.mark.skipif(geometry.SIMULATED, reason="the simulator compiles nothing")
def test_every_family_compiles_for_sm_90():
    rows = families()
    assert {
        "update",
        "advance",
        "norms",
        "reduce",
        "fused",
        "accumulate",
        "clipped",
        "moments",
        "one_pass",
        "quantized",
    } <= set(rows)
    for row in rows.values():
        code, said = row.kernel.link((9, 0))
        assert struct.unpack_from("<H", code, 18) == (CUDA,), row.label
        assert b"\0.text." in code and row.kernel.name.encode() in code, row.label
        assert "sm_90" in said and "Used" in said, row.label


@pytest.mark.full  # test_bits.py has more cases
def test_the_simulator_has_the_bits_of_the_cpu(python, tmp_path):
    files = [tmp_path / "cpu.npz", tmp_path / "simulator.npz"]
    for file, device, simulated in zip(files, ("cpu", "cuda"), ("0", "1"), strict=True):
        python(ANSWER, ROOT / "tests", file, GDGPU_DEVICE=device, NUMBA_ENABLE_CUDASIM=simulated)
    on_cpu, simulated = map(np.load, files)
    assert len(on_cpu.files) >= len(CASES) and on_cpu.files == simulated.files
    for name in on_cpu.files:
        assert_same_bits(simulated[name], on_cpu[name])
