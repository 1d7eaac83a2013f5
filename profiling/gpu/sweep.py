"""Variants of the CUDA kernels, side by side: python profiling/gpu_sweep.py [--seconds N] [--out FILE.jsonl]

A JSON line a variant as soon as it is measured, in the order of --list: microseconds, share of a copy of as many bytes,
a hash of the result's bits; or the error. One that raises, dies or hangs loses only itself; those that gpu_prepare.py
left out are not tried. At the end, after a signal too: the best of each case. --best FILE.jsonl makes that from a file.
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
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

import harness
from peers import Arrays

from gdgpu import devices
from gpu import variants as gpu_variants
from gpu.process import each, end_all, python, serve
from gpu.variants import USUAL

NAME = "profiling/gpu_sweep.py"
ROUNDS = 2  # turns of a variant and of the copy beside it


class Bench:
    """Measures variants; what those of one case share is made once."""

    def __init__(self):
        self.clock, self.case = harness.clock("cuda"), None

    def measured(self, label: str) -> dict:
        """Microseconds of a variant, its share of a copy, what its result hashes to."""
        case, variant = gpu_variants.find(label)
        if case != self.case:
            self._take(case)
        self.clock.release()
        with variant.applied():
            built = [gpu_variants.built(self.arrays, case) for _ in self.copies]
            calls = [call for call, _ in built]
            self.clock.warm(calls)
            bits = hashlib.sha256(devices.on_host(built[0][1]()).tobytes()).hexdigest()[:16]
            turns = harness.interleave(self.clock, {"own": calls, "copy": self.copies}, ROUNDS)
        share = statistics.median(harness.ratios(turns["own"], turns["copy"]))
        return {"us": statistics.median(chain(*turns["own"])) * 1e6, "share": share, "bits": bits}

    def _take(self, case):
        self.copies = self.arrays = None
        self.clock.release()
        self.arrays, self.case = Arrays(self.clock.xp, case.dtype), case
        nbytes = case.problem(self.arrays)[0]
        self.copies = [self.clock.copy(nbytes) for _ in range(harness.sets_of(self.clock, nbytes, 2))]


def sweep(labels: Iterable[str], end: float, heard: Callable[[str, dict], None]) -> str | None:
    """Let processes measure the variants until `end` (of time.monotonic()); see gpu/process.py: each."""
    left_out = prepared_without()
    for label in labels:
        if why := left_out.get(f"sweep/{label}"):
            heard(label, {"left_out": why})
    tried = [label for label in labels if f"sweep/{label}" not in left_out]
    # What does not fit may not fit several cases.
    return each(lambda left: python("profiling/gpu_sweep.py", "--measure", *left), tried, end, heard, often=5)


def prepared_without() -> dict[str, str]:
    """{name: why} of what gpu_prepare.py left out of the folder that is in use."""
    manifest = Path(os.environ.get("GDGPU_CACHE_DIR", ""), "..", "manifest.json")
    try:
        return json.loads(manifest.read_text())["left_out"]
    except (OSError, ValueError, KeyError):
        return {}


def read(path: Path) -> dict[str, dict]:
    """{label: what was found} of a file; a last line that was cut does not count."""
    found = {}
    for line in Path(path).read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "case" in row:
            found[row.pop("case")] = row
    return found


def best(found: dict[str, dict]) -> list[str]:
    """A line for each case: its best variant beside the case as it is; then for each table of variants the one that
    gains most over all its cases together; then what could not be measured. found: {label: what was found}."""
    times = {}
    for label, row in found.items():
        case, _, variant = label.partition(", ")
        if "us" in row:
            times.setdefault(case, {})[variant] = row
    lines = [f"{'case':28s} {'best variant':32s} {'us':>9s} {'as it is':>9s} {'of copy':>7s} {'gain':>7s}"]
    for case, rows in times.items():
        name, row = min(rows.items(), key=lambda pair: pair[1]["us"])
        usual = rows.get(USUAL)
        was, gain = (f"{usual['us']:.1f}", _percent(usual["us"] / row["us"])) if usual else ("?", "?")
        bits = "  other bits" if usual and usual["bits"] != row["bits"] else ""
        lines.append(f"{case:28s} {name:32s} {row['us']:9.1f} {was:>9s} {row['share']:7.3f} {gain:>7s}{bits}")
    for cases, variants in _families():
        ratios = {
            variant: [times[case][USUAL]["us"] / times[case][variant]["us"] for case in cases]
            for variant in variants
            if all({USUAL, variant} <= times.get(case, {}).keys() for case in cases)
        }
        if ratios:
            means = {variant: statistics.geometric_mean(values) for variant, values in ratios.items()}
            winner = max(means, key=means.get)
            least = _percent(min(ratios[winner]))
            lines.append(f"all of {', '.join(cases)}: {winner}, {_percent(means[winner])}, the least {least}")
    failed = {label: row.get("error") or row.get("left_out") for label, row in found.items() if "us" not in row}
    return lines + [f"{label}: {why}" for label, why in failed.items()]


def _percent(ratio):
    return f"{100 * (ratio - 1):+.1f} %"


def _families():
    """(names of cases, names of variants) of each table that several cases share."""
    tables = {}
    for case, variants in gpu_variants.TABLE.items():
        tables.setdefault(id(variants), ([], variants))[0].append(case)
    return [(cases, [v.name for v in variants]) for cases, variants in tables.values() if len(cases) > 1]


def parse(arguments: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = harness.Parser(prog=NAME, description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=150, help="for all of it; default: 150")
    parser.add_argument("--out", metavar="FILE.jsonl", type=Path, help="the lines go there too, behind what it holds")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="only cases with such a word in the name")
    parser.add_argument("--list", action="store_true", help="print the list, and measure nothing")
    parser.add_argument("--best", metavar="FILE.jsonl", type=Path, help="print the table of a file, measure nothing")
    parser.add_argument("--measure", nargs="+", metavar="VARIANT", help="measure these in this process")
    given = parser.parse_args(arguments)
    if not (math.isfinite(given.seconds) and given.seconds > 0):
        parser.error(f"--seconds: expected a number > 0, got {given.seconds:g}")
    if not gpu_variants.pairs(given.only):
        parser.error(f"--only: no case of {', '.join(gpu_variants.TABLE)} has {' or '.join(given.only)} in its name")
    return parser, given


def main(arguments: list[str] | None = None) -> int:
    began = time.monotonic()
    parser, given = parse(arguments)
    labels = [gpu_variants.label(*pair) for pair in gpu_variants.pairs(given.only)]
    if given.list:
        print(*labels, sep="\n")
        return 0
    found = {}

    def heard(label, row):
        found[label] = row
        line = json.dumps({"case": label} | row)
        print(line, flush=True)
        if given.out:
            with given.out.open("a") as file:
                print(line, file=file)

    try:
        if given.best:
            print(*best(read(given.best)), sep="\n")
            return 0
        if given.measure:
            return serve(given.measure, Bench().measured)
        devices.resolve("cuda")
        if given.out:
            given.out.open("a").close()
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        why = sweep(labels, began + given.seconds, heard)
    finally:
        print(*best(found), sep="\n", flush=True)
    if why:
        print(f"{NAME}: {why}", file=sys.stderr)
    return 1 if why else 0


def _stop(number, frame):
    end_all()
    sys.exit(128 + number)
