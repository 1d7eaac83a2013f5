"""The machine code of a CUDA kernel, inspected and held against limits on a machine with no GPU.

    report = inspect(kernel, "sm_90", name="momentum", dtype="float32")
    findings = check(report, Limits(threads=1024))

A kernel is good if nothing is spilled and no local memory used, nothing is computed in float64 unless meant, no atomic
adds floats, an arrival at a counter stands between fences, nothing is contracted to a multiply-add but the rule's own
fma, the main loop loads and stores 128 bits at a time, and enough threads fit on a multiprocessor to keep enough bytes
in flight.
"""

from __future__ import annotations

import difflib
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..devices import simulated, why_no_kernels
from .sass import FLOAT64, FLOAT_ATOMIC, LOCAL_MEMORY, MULTIPLY_ADD, Code
from .tools import MissingToolError, assembled, disassemble, tool

if TYPE_CHECKING:
    from .sass import Instruction

VECTOR_BITS = 128
COMPARED = "sm_90"


@dataclass(frozen=True)
class Architecture:
    """What a multiprocessor holds at once: threads, blocks and bytes of shared memory. capability: (major, minor)."""

    capability: tuple[int, int]
    threads: int
    blocks: int
    shared: int


# CUDA Programming Guide, technical specifications per compute capability:
# https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/compute-capabilities.html
ARCHITECTURES = {
    "sm_80": Architecture((8, 0), 2048, 32, 164 << 10),
    "sm_90": Architecture((9, 0), 2048, 32, 228 << 10),
    "sm_100": Architecture((10, 0), 2048, 32, 228 << 10),
    "sm_120": Architecture((12, 0), 1536, 24, 100 << 10),
}
# The same for all of these; how they are given out is cuda_occupancy.h of the CUDA toolkit.
WARP = 32
PARTITIONS = 4
REGISTERS = (64 << 10) // PARTITIONS  # of a partition, which gives them to warps in units
REGISTER_UNIT = 256
SHARED_RESERVED = 1 << 10  # bytes a block takes besides its own
SHARED_UNIT = 128


def occupancy(arch: str, registers: int, shared: int, block: int) -> tuple[int, str]:
    """(threads that a multiprocessor holds at once, what bounds them), in blocks of `block` threads.

    registers: of a thread; shared: bytes of a block.
    """
    warps = -(-block // WARP)
    limits = ARCHITECTURES[arch]
    blocks = {
        "threads": limits.threads // (warps * WARP),
        "blocks": limits.blocks,
        "registers": REGISTERS // _round_up(max(registers, 1) * WARP, REGISTER_UNIT) * PARTITIONS // warps,
        "shared memory": limits.shared // _round_up(shared + SHARED_RESERVED, SHARED_UNIT),
    }
    bound = min(blocks, key=blocks.get)
    return blocks[bound] * block, bound


def _round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


@dataclass(frozen=True)
class Report:
    """A kernel on an architecture. spilled, stack, shared: bytes; threads: resident on a multiprocessor, by `bound`.

    code: its instructions, None if there was no disassembler. contracted: those that ptxas --fmad=false does without,
    None if that was not asked.
    """

    name: str
    dtype: str
    arch: str
    registers: int
    spilled: int
    stack: int
    shared: int
    threads: int
    bound: str
    code: Code | None = None
    contracted: tuple[Instruction, ...] | None = None

    @property
    def label(self) -> str:
        return f"{self.name}.{self.dtype}.{self.arch}"

    @property
    def in_flight(self) -> int:
        """Bytes that the loads of all resident threads' main loops keep outstanding on a multiprocessor, at most.

        A thread's are the most outstanding at any point of two iterations, in program order: from a load's issue until
        an instruction first names one of the registers that it fills; whoever waits for a load waits for all before it.
        """
        loop = self.code and self.code.main_loop
        return self.threads * loop.outstanding.bytes if loop else 0

    def row(self) -> dict[str, Any]:
        """The figures, as a dict for JSON; those that need a disassembler are None without it."""
        figures = {"kernel": self.name, "dtype": self.dtype, "arch": self.arch, "registers": self.registers}
        figures |= {"spill_bytes": self.spilled, "stack_bytes": self.stack, "shared_bytes": self.shared}
        figures |= {"threads": self.threads, "bound_by": self.bound}
        of_code = {
            "load_bits": lambda code: sorted({i.bits for loop in code.vector_loops for i in loop.loads}),
            "store_bits": lambda code: sorted({i.bits for loop in code.vector_loops for i in loop.stores}),
            "float64_instructions": lambda code: len(code.having(FLOAT64)),
            "local_memory_instructions": lambda code: len(code.having(LOCAL_MEMORY)),
            "float_atomics": lambda code: len(code.having(FLOAT_ATOMIC)),
            "contracted": lambda code: None if self.contracted is None else len(self.contracted),
            "bytes_in_flight": lambda code: self.in_flight,
        }
        return figures | {key: self.code and figure(self.code) for key, figure in of_code.items()}


def inspect(
    kernel: Any,
    arch: str,
    name: str = "kernel",
    dtype: str = "float32",
    block: int | None = None,
    options: Sequence[str] = (),
    with_code: bool = True,
    compare: bool = True,
) -> Report:
    """The Report of a kernel on an architecture of ARCHITECTURES.

    kernel: has `link(capability, *options)`, which gives its machine code as it is launched, and ptxas's words on it.
    block: threads a block, 256 by default. options: more for ptxas. with_code=False does without nvdisasm,
    compare=False without compiling once more to see what is contracted.
    Raises MissingToolError where nvdisasm is not installed, ValueError for another architecture.
    """
    if arch not in ARCHITECTURES:
        raise ValueError(f"arch: expected one of {', '.join(ARCHITECTURES)}, got {arch!r}")
    if not hasattr(kernel, "link"):
        raise TypeError(f"kernel: expected a CUDA kernel, with link(capability, *options), got {kernel!r}")
    if block is None:
        from ..kernels.backend.geometry import CUDA_THREADS as block
    capability = ARCHITECTURES[arch].capability
    made = assembled(*kernel.link(capability, *options))
    code = Code(disassemble(made.cubin)) if with_code else None
    contracted = None
    if code and compare:
        contracted = ()
        apart = assembled(*kernel.link(capability, *options, "--fmad=false"))
        if apart.instructions != made.instructions:
            contracted = _contracted(code, Code(disassemble(apart.cubin)))
    resident = occupancy(arch, made.registers, made.shared, block)
    return Report(name, dtype, arch, made.registers, made.spilled, made.stack, made.shared, *resident, code, contracted)


def inspect_rule(rule: Any, dtype: str = "float32", architectures: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """Figures of a rule's CUDA kernels for this dtype, with no GPU: a dict for each kernel and architecture.

    They are those of Report.row(), and "findings" has what `check` finds: nothing where the code is good.

    rule: a name of kernels.rules.table.RULES, or a Rule, as the classes that gdgpu.rule makes have in `rule`.
    architectures: all of ARCHITECTURES by default. Raises MissingToolError, which says what to install.
    """
    require_tools()
    from ..kernels.catalogue import DTYPES, of_rule
    from ..kernels.rules.table import RULES

    if isinstance(rule, str) and rule not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}, got {rule!r}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    figures = []
    for row in of_rule(RULES.get(rule, rule)):
        for arch in (architectures or ARCHITECTURES) if row.dtype == dtype else ():
            report = inspect(row.kernel, arch, row.name, dtype)
            figures.append(report.row() | {"findings": check(report, row.limits)})
    return figures


def require_tools() -> None:
    """Raise MissingToolError, which says what to install or unset, where kernels cannot be compiled and looked at."""
    if simulated():
        raise MissingToolError("NUMBA_ENABLE_CUDASIM is set: the simulator compiles nothing")
    if broken := why_no_kernels(compiles=True):
        raise MissingToolError(broken)
    tool("nvdisasm")


def inspect_rows(
    architectures: Mapping[Any, Sequence[str]], with_code: bool = True
) -> tuple[dict[Any, Future[dict[str, Report]]], ProcessPoolExecutor]:
    """Futures of {architecture: report} for rows of kernels.catalogue, by row, and the pool that they come from.

    architectures: row -> those wanted.

    In processes of their own, since NVVM compiles one kernel at a time in each. What would be contracted stands in
    the code that all architectures are compiled from: it is looked at on one of them.
    """
    count = min(len(architectures), os.cpu_count() or 1) or 1
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))
    jobs = {row: pool.submit(_inspect_row, row.label, each, with_code) for row, each in architectures.items()}
    return jobs, pool


def _inspect_row(label: str, architectures: Sequence[str], with_code: bool) -> dict[str, Report]:
    from ..kernels.catalogue import ROWS

    row = next(row for row in ROWS if row.label == label)
    compared = COMPARED if COMPARED in architectures else architectures[0]
    return {
        arch: inspect(row.kernel, arch, row.name, row.dtype, with_code=with_code, compare=arch == compared)
        for arch in architectures
    }


def _contracted(code: Code, apart: Code) -> tuple[Instruction, ...]:
    """The multiply-adds of `code` that are not in `apart`, else whatever differs first."""
    opcodes = [[i.opcode for i in c.instructions] for c in (code, apart)]
    changes = difflib.SequenceMatcher(None, *opcodes, autojunk=False).get_opcodes()
    differing = [i for kind, a, b, *_ in changes if kind != "equal" for i in code.instructions[a : max(b, a + 1)]]
    return tuple(i for i in differing if MULTIPLY_ADD.match(i.opcode)) or tuple(differing or code.instructions)[:1]


def check(report: Report, limits: Any) -> list[str]:
    """One-line findings: what the report says against the limits, with the instructions that it is about."""
    return [f"{report.label}: {what}: {_show(instructions)}" for what, instructions in _findings(report, limits)]


def _findings(report: Report, limits: Any) -> Iterator[tuple[str, Sequence[Instruction]]]:
    code = report.code or Code("")
    local = code.having(LOCAL_MEMORY)
    if report.spilled or report.stack or local:
        yield f"{report.spilled} bytes spilled, {report.stack} bytes of stack, local memory", local
    if (double := code.having(FLOAT64)) and report.dtype != "float64" and not limits.float64:
        yield "float64 arithmetic", double
    if atomics := code.having(FLOAT_ATOMIC):
        yield "atomics of floats", atomics
    if code.unfenced:
        yield "an arrival with no fence before it, or none after", code.unfenced
    if report.contracted:
        yield "contracted, unlike with --fmad=false", report.contracted
    if limits.streams and report.code:
        if not code.main_loop:
            yield "no loop that loads from memory", code.instructions[:1]
        narrow = [i for loop in code.vector_loops for i in loop.loads + loop.stores if i.bits != VECTOR_BITS]
        if len(narrow) > limits.narrow:
            yield f"not {VECTOR_BITS} bits wide in the main loop", narrow
    if report.arch == limits.arch:
        yield from _too_few(report, limits, code)


def _too_few(report: Report, limits: Any, code: Code) -> Iterator[tuple[str, Sequence[Instruction]]]:
    if report.threads < limits.threads:
        what = f"{report.threads} threads resident, fewer than {limits.threads}, bound by {report.bound}"
        if report.bound == "shared memory":
            shared = [i for i in code.instructions if i.name in ("STS", "LDS", "ATOMS")]
            yield f"{what} ({report.shared} bytes a block)", shared
        else:
            highest = sorted(code.instructions, key=lambda i: -max(i.registers, default=0))[:1]
            yield f"{what} ({report.registers} registers, the highest of them first named here)", highest
    if limits.streams and code.main_loop and report.in_flight < limits.in_flight:
        peak = code.main_loop.outstanding
        yield (
            f"{report.in_flight} bytes in flight, fewer than {limits.in_flight}: {report.threads} threads with "
            f"{peak.bytes} bytes each when the second of these waits",
            [i for i in (peak.load, peak.waits) if i],
        )


def _show(instructions: Sequence[Instruction], limit: int = 3) -> str:
    shown = "; ".join(map(str, instructions[:limit]))
    return (
        f"{shown}; and {len(instructions) - limit} more"
        if len(instructions) > limit
        else shown or "no instruction to show"
    )
