"""What ptxas says of machine code, and its text as nvdisasm prints it, on machines with no GPU."""

from __future__ import annotations

import importlib.util
import re
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..kernels.backend import toolchain

PACKAGES = {"nvdisasm": "nvidia-cuda-nvdisasm"}
_EXECUTABLE = 4  # SHF_EXECINSTR of ELF


class MissingToolError(RuntimeError):
    """A program that is not installed."""


@dataclass(frozen=True)
class Assembled:
    """What ptxas made: a cubin, and what it takes. spilled, stack, shared: bytes."""

    cubin: bytes
    registers: int
    spilled: int
    stack: int
    shared: int

    @property
    def instructions(self) -> bytes:
        """The bytes of the machine code alone: notes beside it hold the options that it was made with."""
        (start,) = struct.unpack_from("<Q", self.cubin, 0x28)
        size, count = struct.unpack_from("<HH", self.cubin, 0x3A)
        sections = (struct.unpack_from("<IIQQQQ", self.cubin, start + k * size) for k in range(count))
        return b"".join(self.cubin[at : at + n] for _, _, flags, _, at, n in sections if flags & _EXECUTABLE)


@cache
def tool(name: str) -> str:
    """The path of nvdisasm: from NVIDIA's wheels, else from the PATH. Raises MissingToolError."""
    wheels = importlib.util.find_spec("nvidia")
    for folder in wheels.submodule_search_locations if wheels else ():
        if found := [path for path in sorted(Path(folder).glob(f"*/bin/{name}*")) if path.stem == name]:
            return str(found[-1])
    if found := shutil.which(name):
        return found
    raise MissingToolError(f"{name} is not installed: pip install {PACKAGES[name]}")


def tool_version(name: str) -> str:
    """A program's version, like 13.5.37. Raises MissingToolError."""
    said = subprocess.run([tool(name), "--version"], capture_output=True, text=True).stdout
    return (re.findall(r"\bV(\d[\d.]*)", said) or [toolchain.UNKNOWN])[0]


def assembled(cubin: bytes, said: str) -> Assembled:
    """What ptxas -v said of a kernel, in numbers."""
    return Assembled(
        cubin,
        registers=max(_numbers(r"Used (\d+) registers", said)),
        spilled=sum(_numbers(r"(\d+) bytes spill", said)),
        stack=sum(_numbers(r"(\d+) bytes stack frame", said)),
        shared=sum(_numbers(r"(\d+) bytes smem", said)),
    )


def disassemble(cubin: bytes) -> str:
    """The text of `nvdisasm -c`."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return _run("nvdisasm", "-c", file.name)


def _run(name: str, *arguments: object) -> str:
    done = subprocess.run([tool(name), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        (said, *_) = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
        linker = toolchain.versions()["nvJitLink"] or "of nvJitLink's version"
        needed = f"needed: {name} {linker} or newer, pip install -U {PACKAGES[name]}"
        raise RuntimeError(f"{name} {tool_version(name)} cannot read the machine code ({said}); {needed}")
    return done.stderr + done.stdout


def _numbers(pattern: str, text: str) -> list[int]:
    return list(map(int, re.findall(pattern, text)))
