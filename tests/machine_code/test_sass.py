"""Reading machine code: loops and outstanding bytes of small hand-written texts, and occupancy, counted by hand."""

import pytest

from gdgpu import machine_code
from gdgpu.machine_code.sass import FLOAT64, FLOAT_ATOMIC, LOCAL_MEMORY, Code


def code(text):
    """Code of lines that are labels or instructions."""
    lines, address = [], 0
    for line in text.strip().splitlines():
        line = line.strip()
        lines.append(line if line.endswith(":") else f"        /*{address:04x}*/                   {line} ;")
        address += 0 if line.endswith(":") else 16
    return Code("\n".join(["\t.headerflags @ignored", *lines]))


def addresses(loop):
    return [i.address // 16 for i in loop.body]


def test_an_instruction_is_taken_apart():
    first, second, third, spilled = code("""
        @!P0 LDG.E.128.CONSTANT R4, desc[UR4][R2.64+0x10]
        STG.E.64 desc[UR4][R8.64], R6
        EXIT
        STL.64 [R1+0xa8], R24                     (*"SpillRefill"*)""").instructions
    assert str(spilled) == "/*0030*/ STL.64 [R1+0xa8], R24"
    assert str(first) == "/*0000*/ @!P0 LDG.E.128.CONSTANT R4, desc[UR4][R2.64+0x10]"
    assert (first.name, first.bits, first.data, first.registers) == ("LDG", 128, {4, 5, 6, 7}, {2, 3, 4, 5, 6, 7})
    assert (second.name, second.bits, second.data, second.registers) == ("STG", 64, {6, 7}, {6, 7, 8, 9})
    assert (third.opcode, third.address, third.registers) == ("EXIT", 32, set())


ADDED = """
    S2R R0, SR_TID.X
    .L_x_0:
    LDG.E.128 R4, [R2.64]
    LDG.E.128 R8, [R2.64+0x10]
    IADD3 R2, P0, R2, 0x20, RZ
    FADD R12, R12, R7
    LDG.E.128 R16, [R2.64]
    FADD R12, R12, R8
    @!P0 BRA `(.L_x_0)
    EXIT
    .L_x_1:
    BRA `(.L_x_1)
"""


def test_outstanding_bytes_in_program_order():
    """First turn: 16, 32, R7 waits (16), 32, R8 waits (16 left: R16). Second: 32, 48, and R7 waits for two of three."""
    (loop,) = code(ADDED).loops
    assert addresses(loop) == [1, 2, 3, 4, 5, 6, 7]
    assert (loop.widest, loop.bytes) == (128, 48)
    outstanding = loop.outstanding
    assert (outstanding.bytes, str(outstanding.load), str(outstanding.waits)) == (
        48,
        "/*0020*/ LDG.E.128 R8, [R2.64+0x10]",
        "/*0040*/ FADD R12, R12, R7",
    )


OUTSTANDING = {
    "waiting for the last is waiting for all": (
        ["LDG.E.128 R4, [R2.64]", "LDG.E.128 R8, [R2.64]", "FADD R0, R0, R8", "LDG.E R12, [R2.64]", "FADD R0, R0, R12"],
        32,
    ),
    "waiting for the first is not waiting for the second": (
        ["LDG.E R0, [R2.64]", "LDG.E.128 R4, [R2.64]", "FADD R1, R0, R1", "LDG.E.128 R8, [R2.64]", "FADD R1, R1, R8"],
        32,
    ),
    "one at a time": (["LDG.E.128 R4, [R2.64]", "FADD R0, R0, R4", "LDG.E.128 R8, [R2.64]", "FADD R0, R0, R11"], 16),
    "a neighbouring register is no reason to wait": (
        ["LDG.E R4, [R2.64]", "LDG.E.64 R6, [R2.64]", "FADD R0, R5, R8"],
        12,
    ),
    "an address that was loaded": (["LDG.E.64 R4, [R2.64]", "LDG.E.128 R8, [R4.64]", "FADD R0, R0, R9"], 16),
    "what overwrites a load waits for it": (["LDG.E.128 R4, [R2.64]", "IMAD.MOV.U32 R6, RZ, RZ, RZ"], 16),
    "a store that empties it": (["LDG.E.128 R4, [R2.64]", "STG.E.128 [R2.64], R4"], 16),
    "16-bit loads": (["LDG.E.U16 R4, [R2.64]", "LDG.E.U16 R5, [R2.64+0x2]", "HADD2.F32 R0, R4, R5"], 4),
    "two turns": (["FADD R0, R0, R4", "FADD R0, R0, R12", "LDG.E.128 R4, [R2.64]", "LDG.E.128 R12, [R2.64]"], 32),
}


@pytest.mark.parametrize("name", OUTSTANDING)
def test_outstanding_bytes(name):
    body, expected = OUTSTANDING[name]
    (loop,) = code("\n".join([".L_x_0:", *body, "@P0 BRA `(.L_x_0)", "EXIT"])).loops
    assert loop.outstanding.bytes == expected


def test_the_main_loop_is_an_innermost_one_with_the_widest_loads():
    found = code("""
        .L_x_0:
        LDG.E R0, [R2.64]
        .L_x_1:
        LDG.E.128 R4, [R2.64]
        @P0 BRA `(.L_x_1)
        .L_x_2:
        LDG.E.128 R4, [R2.64]
        LDG.E.128 R8, [R2.64+0x10]
        @P0 BRA `(.L_x_2)
        .L_x_3:
        LDG.E R4, [R2.64]
        LDG.E R5, [R2.64]
        LDG.E R6, [R2.64]
        LDG.E R7, [R2.64]
        LDG.E R8, [R2.64]
        LDG.E R9, [R2.64]
        LDG.E R10, [R2.64]
        LDG.E R11, [R2.64]
        LDG.E R12, [R2.64]
        @P0 BRA `(.L_x_3)
        @P1 BRA `(.L_x_0)
        EXIT""")
    assert [addresses(loop)[0] for loop in found.loops] == [1, 3, 6]
    assert [addresses(loop) for loop in found.vector_loops] == [[1, 2], [3, 4, 5]]
    assert addresses(found.main_loop) == [3, 4, 5]


def test_of_two_alike_the_loop_that_keeps_fewer_bytes_outstanding_counts():
    found = code("""
        .L_x_0:
        LDG.E.128 R4, [R2.64]
        LDG.E.128 R8, [R2.64+0x10]
        FADD R0, R4, R8
        @P0 BRA `(.L_x_0)
        .L_x_1:
        LDG.E.128 R4, [R2.64]
        FADD R0, R0, R4
        LDG.E.128 R8, [R2.64+0x10]
        FADD R0, R0, R8
        @P0 BRA `(.L_x_1)
        EXIT""")
    assert (addresses(found.main_loop)[0], found.main_loop.outstanding.bytes) == (4, 16)


def test_a_block_out_of_line_belongs_to_its_loop_and_makes_none():
    """The slow path lies behind the loop's end and jumps back into its middle."""
    (loop,) = code("""
        .L_x_0:
        LDG.E.128 R4, [R2.64]
        @P1 BRA `(.L_x_2)
        .L_x_1:
        FADD R0, R0, R4
        @P0 BRA `(.L_x_0)
        LDG.E R9, [R2.64]
        EXIT
        .L_x_2:
        FMUL R4, R4, R4
        BRA `(.L_x_1)""").loops
    assert addresses(loop) == [0, 1, 2, 3, 6, 7]


def test_no_loop():
    found = code("LDG.E.128 R4, [R2.64]\nSTG.E.128 [R2.64], R4\nEXIT\n.L_x_0:\nBRA `(.L_x_0)")
    assert found.loops == [] and found.main_loop is None
    assert Code("").main_loop is None


OPCODES = {
    FLOAT64: (
        "DADD DFMA DMUL DSETP.GT.AND F2F.F64.F32 F2F.F32.F64 I2F.F64.S64 F2I.S64.F64.TRUNC MUFU.RCP64H",
        "FADD FFMA IMAD.WIDE F2F.F16.F32 DEPBAR.LE I2F.U64.RP LDG.E.64 MUFU.RSQ",
    ),
    LOCAL_MEMORY: ("LDL LDL.64 STL.128", "LDG.E LDS STS STG.E LDC"),
    FLOAT_ATOMIC: (
        "RED.E.ADD.F32.FTZ.RN.STRONG.GPU ATOMG.E.ADD.F64.RN.STRONG.GPU REDG.E.ADD.F32 ATOMS.CAST.SPIN RED.E.ADD.F16x2",
        "ATOMG.E.ADD.STRONG.GPU RED.E.ADD.STRONG.GPU ATOMS.ADD REDUX.SUM.S32 FADD",
    ),
}


@pytest.mark.parametrize("pattern", OPCODES, ids=("float64", "local memory", "float atomics"))
def test_opcodes(pattern):
    bad, good = (opcodes.split() for opcodes in OPCODES[pattern])
    found = code("\n".join(f"{opcode} R0, R2, R4" for opcode in (*bad, *good))).having(pattern)
    assert [i.opcode for i in found] == bad


# By hand, with cuda_occupancy.h's rules: a warp takes registers in units of 256 from a quarter of 64 Ki; a block takes
# 1 KiB of shared memory besides its own.
OCCUPANCY = [
    ("sm_90", 32, 0, 256, (2048, "threads")),
    ("sm_90", 33, 0, 256, (1536, "registers")),  # 1280 a warp: 12 in a quarter, 48 in all, 6 blocks
    ("sm_90", 65, 0, 256, (768, "registers")),  # 2304: 7, 28, 3
    ("sm_90", 255, 0, 1024, (0, "registers")),  # 8192: 2, 8, 0
    ("sm_90", 16, 16_384, 256, (2048, "threads")),
    ("sm_80", 16, 40_960, 256, (1024, "shared memory")),  # 164 KiB / 41 KiB: 4 blocks
    ("sm_120", 16, 16_384, 256, (1280, "shared memory")),  # 100 KiB / 17 KiB: 5 blocks
    ("sm_120", 16, 0, 32, (768, "blocks")),
]


@pytest.mark.parametrize(("arch", "registers", "shared", "block", "expected"), OCCUPANCY)
def test_occupancy(arch, registers, shared, block, expected):
    assert machine_code.occupancy(arch, registers, shared, block) == expected
