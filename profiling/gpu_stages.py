"""The stages of the GPU check: each runs other processes for at most so many seconds and reports what they found.

stage(report, seconds, save): save() may be called whenever the report has grown.
"""

import json
import os
import re
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from cases import CASES
from gpu_process import run
from gpu_report import row_of

BITS_CASES, GPU_TESTS = "tests/bits_cases.py", "tests/test_gpu.py"
SANITIZERS = {"memcheck": r"ERROR SUMMARY: (\d+) error", "racecheck": r"RACECHECK SUMMARY: (\d+) hazard"}
OTHER_DTYPES = ("bfloat16", "float16", "float64")
IN_OTHER_DTYPES = ("momentum/1x2^28", "reduce/65536x784")
SHOWN = 20  # differences, findings, failures that the report names
UNREACHED = "not reached"
OUT_OF_TIME = (UNREACHED, "cut after")


def bits(report, seconds, save):
    """Every case of tests/bits_cases.py on the GPU and on the CPU, shared out over processes, which mostly compile."""
    parts = max(1, min(8, (os.cpu_count() or 1) // 2))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2 * parts) as pool:
        files = {(device, k): Path(folder, f"{device}{k}.npz") for device in ("cuda", "cpu") for k in range(parts)}

        def answer(part):
            device, k = part
            command = (sys.executable, BITS_CASES, files[part], "--part", f"{k}/{parts}")
            return run(command, seconds, {"GDGPU_DEVICE": device})

        ended = dict(zip(files, pool.map(answer, files), strict=True))
        failed = [f"{device}: {done.why(seconds)}" for (device, _), done in ended.items() if done.status]
        different = {}
        for k in range(parts):
            if not (ended["cpu", k].status or ended["cuda", k].status):
                with np.load(files["cpu", k]) as expected, np.load(files["cuda", k]) as actual:
                    different |= differences(dict(expected), dict(actual))
    report["bits_equal"] = False if different else None if failed else True
    report["bits_different"] = dict(list(different.items())[:SHOWN])
    if failed:
        report["bits_note"] = failed[0]


def differences(expected, actual):
    """{case: what differs} between the answers of two devices: arrays by the name CASE:NUMBER, errors as CASE:error."""
    found = {}
    if expected.pop("device", None) == actual.pop("device", None):
        return {"device": "both answers come from the same device"}
    for name in expected | actual:
        case, _, part = name.rpartition(":")
        if part == "error":
            found[case] = f"{'CPU' if name in expected else 'GPU'}: {(expected | actual)[name]}"
        elif case not in found:
            a, b = expected.get(name), actual.get(name)
            if a is None or b is None or (a.dtype, a.shape) != (b.dtype, b.shape):
                found[case] = f"array {part} is not of the same kind"
            elif not np.array_equal(a, b):
                found[case] = f"array {part}: {np.count_nonzero(a != b)} of {a.size} elements"
    return found


def table(report, seconds, save):
    """Every case in float32 beside its peers."""
    report["rows"] = [
        _unmeasured(name, "float32", UNREACHED, case.limit, case.peer_limit) for name, case in gpu_cases()
    ]

    def keep():
        report["host_us"] = {row["case"]: row.get("host_us") for row in report["rows"]}
        save()

    keep()
    _measure(report, report["rows"], seconds, keep)


def dtypes(report, seconds, save):
    """Some cases in other dtypes, as far as time allows. No limit is set for these."""
    end = time.monotonic() + seconds
    for dtype in OTHER_DTYPES:
        rows = [_unmeasured(name, dtype, UNREACHED) for name in IN_OTHER_DTYPES]
        _measure(report, rows, end - time.monotonic(), save)
        report["rows"] = (report["rows"] or []) + [r for r in rows if not r.get("error", "").startswith(OUT_OF_TIME)]


def gpu_cases():
    return [(name, case) for name, case in CASES.items() if "cuda" in case.devices]


def _unmeasured(case, dtype, error, limit=None, peer_limit=None):
    return row_of({"case": case, "dtype": dtype, "limit": limit, "peer_limit": peer_limit, "error": error})


def _measure(report, rows, seconds, save):
    """Fill in rows of one dtype. A case that fails ends its process, and another one goes on behind it."""
    end = time.monotonic() + seconds
    index = {row["case"]: row for row in rows}
    waiting = list(index)

    def heard(line):
        if not line.startswith("{"):
            return
        found = json.loads(line)
        if "copy_gbs" in found:
            report["copy_gbs"] = report["copy_gbs"] or found["copy_gbs"]
        else:
            _fill(index[found["case"]], found)
            waiting.remove(found["case"])
        save()

    while waiting and (left := end - time.monotonic()) > 0:
        before = len(waiting)
        done = run((sys.executable, "profiling/gpu_rows.py", rows[0]["dtype"], *waiting), left, heard=heard)
        if done.cut or (done.status and len(waiting) == before):  # it died before it could say which case it was
            index[waiting.pop(0)]["error"] = done.why(seconds)
        elif not done.status:
            break


def _fill(row, found):
    """What was measured; the row keeps its own limits."""
    limits = {key: row[key] for key in ("limit", "peer_limit")}
    del row["error"]
    row |= row_of(found) | limits


def sanitizer(report, seconds, save):
    """compute-sanitizer's memcheck and racecheck, side by side, over a short run of all kernel families."""
    tool = shutil.which("compute-sanitizer", path=os.environ.get("PATH", "") + ":/usr/local/cuda/bin")
    if tool is None:
        report["sanitizer_note"] = "compute-sanitizer is not on the PATH nor in /usr/local/cuda/bin"
        return

    def check(kind):
        # A failed call of the driver raises in Python; the ones that libraries expect to fail are no findings.
        options = ("--tool", kind, "--report-api-errors", "no")
        return run((tool, *options, sys.executable, "profiling/gpu_short_run.py"), seconds)

    with ThreadPoolExecutor(len(SANITIZERS)) as pool:
        ended = dict(zip(SANITIZERS, pool.map(check, SANITIZERS), strict=True))
    counts, notes = [], []
    for kind, done in ended.items():
        summary = re.search(SANITIZERS[kind], "\n".join(done.out + done.err))
        counts.append(int(summary[1]) if summary else 0)
        if not summary or (done.status and not counts[-1]):
            notes.append(f"{kind}: {done.why(seconds)}")
        if counts[-1]:
            report["sanitizer_report"] = [line for line in done.out + done.err if line.startswith("=====")][:SHOWN]
    report["sanitizer_findings"] = sum(counts) if sum(counts) or not notes else None
    if notes:
        report["sanitizer_note"] = "; ".join(notes)


def tests(report, seconds, save):
    """The tests that need a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "tests.xml")
        done = run((sys.executable, "-m", "pytest", "-q", GPU_TESTS, f"--junitxml={file}"), seconds)
        if not file.exists():
            report["tests"], report["tests_note"] = None, done.why(seconds)
            return
        cases = list(ElementTree.parse(file).iter("testcase"))
    outcome = {kind: [c for c in cases if c.find(kind) is not None] for kind in ("failure", "error", "skipped")}
    failed = outcome["failure"] + outcome["error"]
    report["tests"] = {
        "passed": len(cases) - len(failed) - len(outcome["skipped"]),
        "failed": len(failed),
        "skipped": [f"{c.get('name')}: {c.find('skipped').get('message')}" for c in outcome["skipped"]],
        "failures": [f"{c.get('name')}: {_message(c)}" for c in failed][:SHOWN],
    }


def _message(case):
    found = case.find("failure") if case.find("failure") is not None else case.find("error")
    return (found.get("message") or "").splitlines()[0][:300]


STAGES = {
    "bits": (bits, 3),
    "table": (table, 8),
    "sanitizer": (sanitizer, 2),
    "tests": (tests, 2),
    "dtypes": (dtypes, 1),
}
