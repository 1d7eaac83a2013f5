"""Variants of the CUDA kernels, side by side: python profiling/gpu_sweep.py [--seconds N] [--out FILE.jsonl]

A JSON line a variant as soon as it is measured, in the order of --list: microseconds, share of a copy of as many bytes,
whether its bits are those of the case as it is; or the error, also of those that gpu_prepare.py left out. At the end,
after a signal too: the best of each case. --skip N leaves out the first N of the list, as after a variant that hung;
what FILE.jsonl holds already then counts in the table. --best FILE.jsonl makes that from the file alone.
"""

import argparse
import hashlib
import json
import math
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from itertools import chain, groupby
from pathlib import Path

import gpu_variants
import harness
from cases import Case
from gpu_dry import one_line
from gpu_variants import USUAL, Variant
from peers import Arrays

from gdgpu import devices

NAME = "profiling/gpu_sweep.py"
ROUNDS = 2  # turns of a variant and of the copy beside it


def sweep(pairs: list[tuple[Case, Variant]], end: float, say: Callable[[dict], None]) -> bool:
    """Measure the pairs one after the other until `end`; say(row) for each. False if time ran out."""
    clock, left_out = harness.clock("cuda"), prepared_without()
    for case, rest in groupby(pairs, lambda pair: pair[0]):
        arrays = Arrays(clock.xp, case.dtype)
        nbytes = case.problem(arrays)[0]
        sets = harness.sets_of(clock, nbytes, 2)
        copies = [clock.copy(nbytes) for _ in range(sets)]
        for _, variant in rest:
            if time.monotonic() >= end:
                return False
            row = {"case": case.name, "variant": variant.name}
            try:
                if why := left_out.get(f"sweep/{gpu_variants.label(case, variant)}"):
                    raise RuntimeError(f"left out when kernels were prepared: {why}")
                row |= _measured(clock, arrays, case, variant, sets, copies)
            except Exception as error:  # a variant that does not fit loses nothing else
                row["error"] = one_line(error)
            say(row)
            clock.release()
            clock.warm([])  # an error here: the GPU is lost to this process
    return True


def _measured(clock, arrays, case, variant, sets, copies):
    with variant.applied():
        built = [gpu_variants.built(arrays, case) for _ in range(sets)]
        calls = [call for call, _ in built]
        clock.warm(calls)
        bits = hashlib.sha256(devices.on_host(built[0][1]()).tobytes()).hexdigest()[:16]
        turns = harness.interleave(clock, {"own": calls, "copy": copies}, ROUNDS)
    seconds = statistics.median(chain(*turns["own"]))
    share = statistics.median(harness.ratios(turns["own"], turns["copy"]))
    return {"us": seconds * 1e6, "share": share, "bits": bits}


def prepared_without() -> dict[str, str]:
    """{label: why} of the variants that gpu_prepare.py left out of the folder that is in use."""
    manifest = Path(os.environ.get("GDGPU_CACHE_DIR", ""), "..", "manifest.json")
    try:
        return json.loads(manifest.read_text())["left_out"]
    except (OSError, ValueError, KeyError):
        return {}


class Rows:
    """What was measured: by this process, and what its file held before. Each row is written as it comes."""

    def __init__(self, path: Path | None = None):
        self.rows, self._path = read(path) if path and path.exists() else [], path

    def say(self, row: dict) -> None:
        if "bits" in row:
            usual = next((r for r in self.rows if (r["case"], r["variant"]) == (row["case"], USUAL)), row)
            is_known = "bits" in usual and (usual is not row or row["variant"] == USUAL)
            row["same_bits"] = usual["bits"] == row["bits"] if is_known else None
        self.rows.append(row)
        line = json.dumps(row)
        print(line, flush=True)
        if self._path:
            with self._path.open("a") as file:
                print(line, file=file, flush=True)


def read(path: Path) -> list[dict]:
    """The rows of a file; a last line that was cut does not count."""
    rows = []
    for line in Path(path).read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and {"case", "variant"} <= row.keys():
            rows.append(row)
    return rows


def best(rows: list[dict]) -> list[str]:
    """A line for each case: its best variant beside the case as it is; and for each table of variants, the one that
    gains most over all its cases together."""
    times = {}
    for row in rows:
        if "us" in row:
            times.setdefault(row["case"], {})[row["variant"]] = row
    lines = [f"{'case':28s} {'best variant':32s} {'us':>9s} {'as it is':>9s} {'of copy':>7s} {'gain':>7s}"]
    for case, found in times.items():
        row, usual = min(found.values(), key=lambda row: row["us"]), found.get(USUAL)
        was, gain = (f"{usual['us']:.1f}", _percent(usual["us"] / row["us"])) if usual else ("?", "?")
        bits = "  other bits" if row.get("same_bits") is False else ""
        figures = f"{row['us']:9.1f} {was:>9s} {row['share']:7.3f} {gain:>7s}"
        lines.append(f"{case:28s} {row['variant']:32s} {figures}{bits}")
    for cases, variants in _families():
        ratios = {
            variant: [times[case][USUAL]["us"] / times[case][variant]["us"] for case in cases]
            for variant in variants
            if all({USUAL, variant} <= times.get(case, {}).keys() for case in cases)
        }
        if ratios:
            means = {variant: statistics.geometric_mean(found) for variant, found in ratios.items()}
            winner = max(means, key=means.get)
            least = _percent(min(ratios[winner]))
            lines.append(f"all of {', '.join(cases)}: {winner}, {_percent(means[winner])}, the least {least}")
    failed = [f"{row['case']}, {row['variant']}: {row['error']}" for row in rows if "error" in row]
    return lines + failed


def _percent(ratio):
    return f"{100 * (ratio - 1):+.1f} %"


def _families():
    """(names of cases, names of variants) of each table that several cases share."""
    tables = {}
    for case, variants in gpu_variants.TABLE.items():
        tables.setdefault(id(variants), ([], variants))[0].append(case)
    return [(cases, [v.name for v in variants]) for cases, variants in tables.values() if len(cases) > 1]


def parse(
    arguments: list[str] | None,
) -> tuple[harness.Parser, argparse.Namespace, list[tuple[Case, Variant]]]:
    parser = harness.Parser(prog=NAME, description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=150, help="for all of it; default: 150")
    parser.add_argument("--out", metavar="FILE.jsonl", type=Path, help="the lines go there too, behind what it holds")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="only cases with such a word in the name")
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="leave out the first N of the list")
    parser.add_argument("--list", action="store_true", help="print the list, and measure nothing")
    parser.add_argument(
        "--best", metavar="FILE.jsonl", type=Path, help="print the table of a file, and measure nothing"
    )
    given = parser.parse_args(arguments)
    if not (math.isfinite(given.seconds) and given.seconds > 0):
        parser.error(f"--seconds: expected a number > 0, got {given.seconds:g}")
    pairs = gpu_variants.pairs(given.only)
    if not pairs:
        parser.error(f"--only: no case of {', '.join(gpu_variants.TABLE)} has {' or '.join(given.only)} in its name")
    if not 0 <= given.skip <= len(pairs):
        parser.error(f"--skip: expected 0 to {len(pairs)}, got {given.skip}")
    return parser, given, pairs[given.skip :]


def main(arguments: list[str] | None = None) -> int:
    began = time.monotonic()
    parser, given, pairs = parse(arguments)
    if given.list:
        print(*(f"{case.name}, {variant.name}" for case, variant in pairs), sep="\n")
        return 0
    try:
        if given.best:
            print(*best(read(given.best)), sep="\n")
            return 0
        harness.clock("cuda")
        rows = Rows(given.out)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    why = None
    try:
        if not sweep(pairs, began + given.seconds, rows.say):
            why = "out of time"
    except Exception as error:  # the GPU is lost
        why = one_line(error)
    finally:
        print(*best(rows.rows), sep="\n", flush=True)
    if why:
        print(f"{NAME}: {why}", file=sys.stderr)
    return 1 if why else 0


def _stop(number, frame):
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
