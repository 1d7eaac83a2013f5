"""Machine code as nvdisasm prints it: instructions, loops, and how many bytes a loop's loads keep outstanding."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise

_LINE = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+((?:@\S+\s+)?(\S+)\s*(.*?))\s*(?:\(\*.*\*\))?\s*;")
_LABEL = re.compile(r"(\S+):\s*$")
_TARGET = re.compile(r"`\(([^)]+)\)")
_REGISTER = re.compile(r"(?<!\w)R(\d+)(\.64)?")
_BITS = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128}

LOADS, STORES = ("LD", "LDG"), ("ST", "STG")
FLOAT64 = re.compile(r"D(ADD|FMA|MMA|MNMX|MUL|SETP)\b|\S*\.F64\b|MUFU\.\w+64")
LOCAL_MEMORY = re.compile(r"(LDL|STL)\b")
# Shared memory has no atomics of floats: they compile to loops of compare-and-swap.
FLOAT_ATOMIC = re.compile(r"(ATOM|RED)[GS]?\.\S*\b(BF16|F16|F32|F64|CAS)")
ARRIVAL = re.compile(r"(ATOM|RED)G?\.")
FENCE = re.compile(r"MEMBAR\.\S*\b(GPU|SYS)")
MULTIPLY_ADD = re.compile(r"[DFH]FMA")


@dataclass(frozen=True)
class Instruction:
    """One line: where it lies, its text, its opcode with suffixes (`LDG.E.128`) and its operands."""

    address: int
    text: str
    opcode: str
    operands: str

    def __str__(self) -> str:
        return f"/*{self.address:04x}*/ {self.text}"

    @cached_property
    def name(self) -> str:
        """The opcode without suffixes."""
        return self.opcode.partition(".")[0]

    @cached_property
    def bits(self) -> int:
        """How wide the access is, of an instruction that loads or stores."""
        return next((_BITS[part] for part in self.opcode.split(".") if part in _BITS), 32)

    @property
    def is_access(self) -> bool:
        return self.name in LOADS + STORES

    @cached_property
    def data(self) -> set[int]:
        """The registers that a load fills or a store empties."""
        return _spread(re.sub(r"\S*\[.*\]", "", self.operands), self.bits // 32)

    @cached_property
    def registers(self) -> set[int]:
        """Every register named. Wide operands of arithmetic count by their first register only."""
        if self.is_access:
            return self.data | _spread(" ".join(re.findall(r"\[.*\]", self.operands)))
        return _spread(self.operands)

    @property
    def target(self) -> str | None:
        """The label that it may jump to."""
        found = _TARGET.search(self.operands) if self.name in ("BRA", "JMP") else None
        return found and found[1]

    @property
    def goes_on(self) -> bool:
        """Whether the next instruction may follow."""
        leaves = self.name in ("EXIT", "RET", "BRX") or (
            self.opcode in ("BRA", "JMP") and self.operands.startswith("`")
        )
        return self.text.startswith("@") or not leaves


def _spread(operands: str, width: int = 1) -> set[int]:
    """The numbers of the registers in a text; each begins `width` registers, or two if it says .64."""
    found = _REGISTER.finditer(operands)
    return {int(m[1]) + k for m in found for k in range(max(width, 2 if m[2] else 1))}


@dataclass(frozen=True)
class Outstanding:
    """bytes: the most that a thread's loads keep outstanding; from this load on, until the instruction that waits."""

    bytes: int
    load: Instruction
    waits: Instruction | None


@dataclass(frozen=True)
class Loop:
    """The instructions of a loop that loads from memory, in program order."""

    body: tuple[Instruction, ...]

    @cached_property
    def loads(self) -> tuple[Instruction, ...]:
        return tuple(i for i in self.body if i.name in LOADS)

    @cached_property
    def stores(self) -> tuple[Instruction, ...]:
        return tuple(i for i in self.body if i.name in STORES)

    @property
    def widest(self) -> int:
        return max(load.bits for load in self.loads)

    @property
    def bytes(self) -> int:
        """What a thread loads in one iteration."""
        return sum(load.bits for load in self.loads) // 8

    @cached_property
    def outstanding(self) -> Outstanding:
        """The most bytes outstanding at any point of two iterations.

        A load is outstanding from its issue until an instruction first names one of its registers (a 128-bit load fills
        four), and whoever waits for a load waits for every load issued before it too.
        """
        pending, now, peak, waits = [], 0, (0, None), None
        for instruction in self.body * 2:
            while any(load.data & instruction.registers for load in pending):
                now -= pending.pop(0).bits // 8
                waits = waits or instruction
            if instruction.name in LOADS:
                pending.append(instruction)
                now += instruction.bits // 8
                if now > peak[0]:
                    peak, waits = (now, instruction), None
        return Outstanding(*peak, waits)


class Code:
    """The instructions of one kernel, from nvdisasm's text."""

    def __init__(self, sass: str) -> None:
        self.sass, self.instructions, self.labels = sass, [], {}
        for line in sass.splitlines():
            if found := _LINE.match(line):
                self.instructions.append(Instruction(int(found[1], 16), found[2], found[3], found[4]))
            elif found := _LABEL.match(line):
                self.labels[found[1]] = len(self.instructions)

    def having(self, pattern: re.Pattern[str]) -> tuple[Instruction, ...]:
        """The instructions whose opcode begins like this."""
        return tuple(i for i in self.instructions if pattern.match(i.opcode))

    @property
    def unfenced(self) -> tuple[Instruction, ...]:
        """The atomics on memory, arrivals at a counter, that no fence comes before, or none after."""
        steps = [i for i in self.instructions if ARRIVAL.match(i.opcode) or FENCE.match(i.opcode)]
        runs = [tuple(run) for _, run in groupby(steps, lambda i: bool(FENCE.match(i.opcode)))]
        return tuple(i for run in dict.fromkeys(runs[:1] + runs[-1:]) for i in run if ARRIVAL.match(i.opcode))

    @cached_property
    def loops(self) -> list[Loop]:
        """The innermost of the loops that load from memory."""
        bodies = {}
        for head, body in _natural_loops(*self._flow()):
            bodies[head] = bodies.get(head, frozenset()) | body
        loops = [(body, Loop(tuple(self.instructions[k] for k in sorted(body)))) for body in bodies.values()]
        loading = [(body, loop) for body, loop in loops if loop.loads]
        return [loop for body, loop in loading if not any(other < body for other, _ in loading)]

    @property
    def vector_loops(self) -> list[Loop]:
        """Of those, the ones that do the kernel's widest loads."""
        widest = max((loop.widest for loop in self.loops), default=0)
        return [loop for loop in self.loops if loop.widest == widest]

    @cached_property
    def main_loop(self) -> Loop | None:
        """Of those, the one that loads most in an iteration; None if there is none."""
        return max(self.vector_loops, key=lambda loop: (loop.bytes, -loop.outstanding.bytes), default=None)

    def _flow(self) -> tuple[list[range], list[set[int]]]:
        """(blocks, next): basic blocks as ranges of instructions, and the blocks that may follow each."""
        count = len(self.instructions)
        ends = {k + 1 for k, i in enumerate(self.instructions) if i.target or not i.goes_on}
        starts = sorted({0, *ends, *self.labels.values()} - {count})
        blocks = [range(a, b) for a, b in pairwise([*starts, count])]
        index = {block.start: b for b, block in enumerate(blocks)}
        following = []
        for b, block in enumerate(blocks):
            last = self.instructions[block[-1]]
            jump = [index[self.labels[last.target]]] if self.labels.get(last.target, count) < count else []
            following.append({*jump, *([b + 1] if last.goes_on and b + 1 < len(blocks) else [])})
        return blocks, following


def _natural_loops(blocks: list[range], following: list[set[int]]) -> Iterator[tuple[int, frozenset[int]]]:
    """(head, indices of instructions) of each loop: a jump back to a block that every way to the jump goes through."""
    before = [{a for a, after in enumerate(following) if b in after} for b in range(len(blocks))]
    everything = set(range(len(blocks)))
    dominators = [everything if before[b] else {b} for b in everything]
    if blocks:
        dominators[0] = {0}
    changed = True
    while changed:
        changed = False
        for b in range(1, len(blocks)):
            if before[b]:
                found = {b} | set.intersection(*(dominators[a] for a in before[b]))
                changed |= found != dominators[b]
                dominators[b] = found
    for tail, after in enumerate(following):
        for head in after & dominators[tail]:
            body, todo = {head}, [tail]
            while todo:
                if (b := todo.pop()) not in body:
                    body.add(b)
                    todo += before[b]
            yield head, frozenset(k for b in body for k in blocks[b])
