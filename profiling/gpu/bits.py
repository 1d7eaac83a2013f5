"""The GPU's answers against the CPU's: python profiling/gpu/bits.py ANSWERS.npz CASE …

ANSWERS.npz holds the CPU's, as tests/support/bits saves them; "-": they are made here too. A JSON line a case as soon
as it is known, whose "different" says what differs, or is null.
"""

import os
import sys
from functools import cache
from pathlib import Path

import numpy as np

sys.path[0] = str(Path(__file__).parents[1])  # the folder of gpu/
from gpu import ROOT  # noqa: E402
from gpu.process import serve  # noqa: E402

sys.path.insert(0, str(ROOT / "tests"))


def difference(expected: list[np.ndarray], actual: list[np.ndarray]) -> str | None:
    """What differs between the answers of two devices to a case; None if nothing does."""
    if len(expected) != len(actual):
        return f"{len(actual)} arrays, of {len(expected)}"
    for k, (a, b) in enumerate(zip(expected, actual, strict=True)):
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return f"array {k} is {b.dtype} {b.shape}, of {a.dtype} {a.shape}"
        if not np.array_equal(a, b):
            return f"array {k}: {np.count_nonzero(a != b)} of {a.size} elements"
    return None


def compared(name: str, answers: Path | None) -> dict:
    """A case on the CPU and on the GPU. An answer that is missing or was an error is one here."""
    expected = _on("cpu", name) if answers is None else made_before(name, answers)
    return {"different": difference(expected, _on("cuda", name))}


def made_before(name: str, answers: Path) -> list[np.ndarray]:
    """The CPU's answer to a case, from its file."""
    stored = _opened(answers)
    if (device := str(stored["device"])) != "cpu":
        raise ValueError(f"{answers}: expected the answers of a CPU, got those of {device}")
    if f"{name}:error" in stored:
        raise ValueError(f"{answers}: {stored[f'{name}:error']}")
    if not (count := sum(key.rpartition(":")[0] == name for key in stored.files)):
        raise ValueError(f"{answers}: has no answer to this case")
    return [stored[f"{name}:{k}"] for k in range(count)]


@cache
def _opened(answers: Path) -> np.lib.npyio.NpzFile:
    return np.load(answers)


def _on(device: str, name: str) -> list[np.ndarray]:
    from support import bits

    os.environ["GDGPU_DEVICE"] = device
    return bits.answers(name)


if __name__ == "__main__":
    path = None if sys.argv[1] == "-" else Path(sys.argv[1])
    sys.exit(serve(sys.argv[2:], lambda name: compared(name, path)))
