"""The stages of the GPU check: each has other processes answer, case by case, and puts every answer into the record.

A stage is a function of (record, names, end, setting): it goes through the names until `end`, of time.monotonic(). It
returns why it ended early, or None.
"""

import os
import re
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cases import CASES, PEERS

from gpu import ROOT, variants
from gpu import sweep as gpu_sweep
from gpu.plan import Stage
from gpu.process import each, python, run
from gpu.report import EQUAL, UNREACHED, row_of

sys.path.insert(0, str(ROOT / "tests"))
from support import bits

GPU_TESTS = "tests/gpu"
SANITIZERS = {"memcheck": r"ERROR SUMMARY: (\d+) error", "racecheck": r"RACECHECK SUMMARY: (\d+) hazard"}
OTHER_DTYPES = ("bfloat16", "float16", "float64")
IN_OTHER_DTYPES = ("momentum/1x2^28", "reduce/65536x784")
CORE = 10  # the first rows of the table, which are worth most
LATE = ("cupy", "torch_compile")  # peers of the core rows that are worth less than other rows
SHOWN = 20  # findings and failures that the report names
NAMES_OF_BITS = list(bits.CASES)
ASKED_FOR = ("sweep",)  # stages that no check has by itself


@dataclass(frozen=True)
class Setting:
    """What a check goes by. peers: those that take part. answers: the CPU's, made before; None: made here."""

    peers: tuple[str, ...] = PEERS["cuda"]
    answers: Path | None = None


def gpu_cases():
    """(name, case) of the rows of the table."""
    return [(name, case) for name, case in CASES.items() if "cuda" in case.devices]


def begin(report):
    """Rows and bits that nothing has reached."""
    report["rows"] = [unreached(name, "float32", case.limit, case.peer_limit) for name, case in gpu_cases()]
    report["host_us"] = dict.fromkeys(row["case"] for row in report["rows"])
    report["bits"] = dict.fromkeys(NAMES_OF_BITS)


def unreached(case, dtype, limit=None, peer_limit=None):
    """A row without a figure."""
    return row_of({"case": case, "dtype": dtype, "limit": limit, "peer_limit": peer_limit, "error": UNREACHED})


def core(record, names, end, setting):
    """The rows that are worth most, beside torch."""
    return _measure(record, names, end, "float32", [peer for peer in setting.peers if peer == "torch"])


def rows(record, names, end, setting):
    """The other rows, beside all peers but torch.compile."""
    return _measure(record, names, end, "float32", _quick(setting.peers))


def late(record, names, end, setting):
    """CuPy beside the core rows, then torch.compile, which may take a minute to begin."""
    for peer in LATE:
        if peer in setting.peers and (why := _measure(record, names, end, "float32", [peer], limit=60, often=5)):
            return f"{peer}: {why}"
    return None


def dtypes(record, names, end, setting):
    """Some rows in 16 and 64 bits, for which no limit is set."""
    for dtype in OTHER_DTYPES:
        mine = [name.removesuffix(f" {dtype}") for name in names if name.endswith(f" {dtype}")]
        if mine and (why := _measure(record, mine, end, dtype, _quick(setting.peers))):
            return why
    return None


def _quick(peers):
    return [peer for peer in peers if peer != "torch_compile"]


def _measure(record, names, end, dtype, peers, **how):
    def heard(name, found):
        record.change(lambda report: _fill(report, name, dtype, peers, found))

    how |= {"command": lambda left: python("profiling/gpu/rows.py", dtype, ",".join(peers) or "none", *left)}
    return each(names=names, end=end, heard=heard, **how)


def _fill(report, name, dtype, peers, found):
    """Put what was measured into its row. A row that has its figures only takes what peers add to them."""
    k = next((k for k, row in enumerate(report["rows"]) if (row["case"], row["dtype"]) == (name, dtype)), None)
    if k is None:
        k = len(report["rows"])
        report["rows"].append(unreached(name, dtype))
    row, copy_gbs = report["rows"][k], found.pop("copy_gbs", None)
    report["copy_gbs"] = report["copy_gbs"] or copy_gbs
    if not row.get("error"):
        failed = dict.fromkeys(peers, found["error"]) if found.get("error") else found.get("skipped", {})
        more = {key: row.get(key, {}) | found.get(key, {}) for key in ("peers", "peer_spread")}
        report["rows"][k] = row | more | {"skipped": row.get("skipped", {}) | failed}
        return
    limits = {key: row[key] for key in ("case", "dtype", "limit", "peer_limit")}
    report["rows"][k] = row_of(found | limits)
    if dtype == "float32":
        report["host_us"][name] = found.get("host_us")


def bits(record, names, end, setting):
    """Every case of the bits table on the GPU, against the CPU's answers."""
    parts = max(1, min(4, (os.cpu_count() or 1) // 2))

    def heard(name, found):
        said = found.get("error") or found.get("different")
        record.put("bits", name, EQUAL if said is None else said)
        if said is not None:
            record.put("bits_equal", False)

    def part(k):
        return each(
            lambda left: python("profiling/gpu/bits.py", setting.answers or "-", *left), names[k::parts], end, heard
        )

    with ThreadPoolExecutor(parts) as pool:
        ended = [why for why in pool.map(part, range(parts)) if why]
    if all(said == EQUAL for said in record.report["bits"].values()):
        record.put("bits_equal", True)
    return ended[0] if ended else None


def sweep(record, names, end, setting):
    """Variants of the kernels, and the best of each family."""
    why = gpu_sweep.sweep(names, end, lambda name, found: record.put("sweep", name, found))
    record.put("best", gpu_sweep.best(record.report.get("sweep") or {}))
    return why


def proof(record, names, end, setting):
    """compute-sanitizer over all kernel families, beside the tests that need a GPU."""
    with ThreadPoolExecutor(len(names)) as pool:
        jobs = [pool.submit(tests if name == "tests" else partial(sanitizer, name), record, end) for name in names]
    notes = [job.result() for job in jobs]
    found = [said["findings"] for said in (record.report.get("sanitizer") or {}).values()]
    known = [count for count in found if count is not None]
    if sum(known) or len(known) == len(SANITIZERS):
        record.put("sanitizer_findings", sum(known))
    return next((note for note in notes if note), None)


def sanitizer(kind, record, end):
    """A tool of compute-sanitizer over a short run. Returns what went wrong with it, or None."""
    tool = shutil.which("compute-sanitizer", path=os.environ.get("PATH", "") + ":/usr/local/cuda/bin")
    if tool is None:
        note = "compute-sanitizer is not on the PATH nor in /usr/local/cuda/bin"
        record.put("sanitizer", kind, {"findings": None, "note": note})
        return note
    # A failed call of the driver raises in Python; the ones that libraries expect to fail are no findings.
    options = ("--tool", kind, "--report-api-errors", "no")
    done = run((tool, *options, *python("profiling/gpu/short_run.py")), end - time.monotonic())
    said, summary = done.out + done.err, re.search(SANITIZERS[kind], "\n".join(done.out + done.err))
    findings, note = int(summary[1]) if summary else None, None
    if not summary or (done.status and not findings):
        behind = next((line for line in reversed(done.out) if not line.startswith("=")), "the start")
        note = f"{done.why}, behind {behind}"
    shown = [line for line in said if line.startswith("=====")][:SHOWN] if findings or note else []
    record.put("sanitizer", kind, {"findings": findings, "note": note, "report": shown})
    return note and f"{kind}: {note}"


def outcomes(folder):
    """What pytest says of a test of the folder when it ends: its name, how, why."""
    return re.compile(rf"{re.escape(folder)}/\w+\.py::(.+) (PASSED|FAILED|ERROR|SKIPPED)( \(.*\))? +\[ *\d+%\]")


def reasons(folder):
    """What pytest says at the end of a test that failed: its name, why."""
    return re.compile(rf"(?:FAILED|ERROR) {re.escape(folder)}/\w+\.py::(.+?) - (.*)")


OUTCOME, REASON = outcomes(GPU_TESTS), reasons(GPU_TESTS)


def tests(record, end):
    """The tests that need a GPU, counted as they end. Returns why they are not whole, or None."""
    found = {"passed": 0, "failed": 0, "skipped": [], "failures": []}

    def heard(line):
        if ended := OUTCOME.match(line):
            name, outcome, why = ended.groups()
            if outcome == "PASSED":
                found["passed"] += 1
            elif outcome == "SKIPPED":
                found["skipped"].append(f"{name}{why or ''}")
            else:
                found["failed"] += 1
                found["failures"] = [*found["failures"], name][:SHOWN]
        elif (reason := REASON.match(line)) and reason[1] in found["failures"]:
            found["failures"][found["failures"].index(reason[1])] += f": {reason[2][:300]}"
        else:
            return
        record.put("tests", dict(found))

    options = "-v", "-rfE", "--color=no", "--tb=short", "-p", "no:cacheprovider", "-o", "addopts="  # in one process
    command = python("-m", "pytest", *options, GPU_TESTS)
    done = run(command, end - time.monotonic(), {"COLUMNS": "1000"}, heard)
    note = done.why if done.cut is not None or done.status not in (0, 1) else None
    record.put("tests", found | ({"note": note} if note else {}))
    return note and f"tests: {note}"


def _worth(name):
    """Rows of families that the core rows lack come first, then fewer bytes, then the other optimizers."""
    case = CASES[name]
    return case.family == "update", not re.search(r"\dbit|g16", case.kind)


def stages():
    """All of them, by worth, with the seconds that they are expected to take. The sweep is for who asks for it."""
    names = [name for name, _ in gpu_cases()]
    others = sorted(names[CORE:], key=_worth)
    return (
        Stage("core", core, names[:CORE], 10, 5),
        Stage("bits", bits, NAMES_OF_BITS, 15, 0.04),
        Stage("sweep", sweep, [variants.label(*pair) for pair in variants.pairs()], 15, 0.8),
        Stage("rows", rows, others, 10, 4, gives_way=True),
        Stage("proof", proof, [*SANITIZERS, "tests"], 70, least=45),
        Stage("dtypes", dtypes, [f"{name} {dtype}" for dtype in OTHER_DTYPES for name in IN_OTHER_DTYPES], 12, 4),
        Stage("late", late, sorted(names[:CORE], key=lambda name: CASES[name].family == "update"), 10, 18),
    )
