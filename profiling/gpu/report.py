"""What a GPU check found: its file, the limits that do not hold, and its tables on a terminal and in the README."""

import json
import re
import threading
from contextlib import suppress
from pathlib import Path

from rich.table import Table

from gdgpu.core import files

OTHERS = ("torch", "torch_compile", "cupy")
PEERS = (*OTHERS, "usual")  # usual: gdgpu's own step, of what a row stores more narrowly
KEYS = ("device", "date", "versions", "copy_gbs", "rows", "host_us", "bits_equal", "sanitizer_findings")
ROW_KEYS = ("case", "dtype", "bytes", "median_ms", "share_of_copy", "limit", "peers", "peer_limit")
HOST_LIMIT_US = 10  # of a bound step, whatever the number of tensors
COLUMNS = ("case", "dtype", "ms", "share of copy", *(f"vs {peer}" for peer in PEERS), "host us")
NOTHING = "not yet measured"
EQUAL = "equal"
UNREACHED = "not reached"


def empty(device, date, versions):
    """The report of a check that has not begun: what is not reached stays None."""
    return dict.fromkeys(KEYS) | {"device": device, "date": date, "versions": versions}


def row_of(measured):
    """A row with the report's keys first and every peer named. measured: a row of run.measure, or a part of one."""
    row = dict.fromkeys(ROW_KEYS) | measured
    return row | {"peers": dict.fromkeys(PEERS) | (row["peers"] or {})}


def path_of(directory, device):
    """The file of a device, e.g. gpu-nvidia-h200.json; gpu-unknown.json before the device is known."""
    return Path(directory) / f"gpu-{re.sub('[^a-z0-9]+', '-', (device or 'unknown').lower()).strip('-')}.json"


class Record:
    """A report and its file, which is written anew with all that is put in: whoever kills the check loses nothing.

    Threads may put in at once. unsaved: why the file is not up to date, or None; the check goes on, and tries again.
    """

    def __init__(self, report, directory):
        self.report, self.directory, self.unsaved = report, Path(directory), None
        self._path, self._lock = None, threading.RLock()

    def put(self, *place):
        """put("rows", 3, row): report["rows"][3] = row. The dicts on the way are made."""
        *way, key, value = place
        with self._lock:
            node = self.report
            for step in way:
                if isinstance(node, dict) and node.get(step) is None:
                    node[step] = {}
                node = node[step]
            node[key] = value
            self.save()

    def change(self, function):
        """Let function(report) change several things at once."""
        with self._lock:
            function(self.report)
            self.save()

    def save(self, flush=False):
        """Put the report in its file in one piece: whoever reads it finds the old one or the new.

        flush: also to the disk, which a power cut needs and a kill does not.
        """
        with self._lock:
            path = path_of(self.directory, self.report["device"])
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                files.write_json(path, self.report, flush)
            except OSError as error:
                self.unsaved = f"{path}: {error.strerror or error}"
                return
            if self._path not in (None, path):  # the device was not known yet
                self._path.unlink(missing_ok=True)
            self._path, self.unsaved = path, None

    def forget(self):
        """Take the file away: there was nothing to check."""
        with self._lock, suppress(OSError):
            if self._path:
                self._path.unlink(missing_ok=True)


def demands(row):
    """(what, value, limit, why there is no value) of a row, where there is a limit."""
    limits = row["peer_limit"]
    if not isinstance(limits, dict):
        limits = dict.fromkeys(OTHERS, limits)
    skipped = row.get("skipped", {})
    asked = [("share of copy", row["share_of_copy"], row["limit"], None)]
    asked += [(f"vs {peer}", row["peers"].get(peer), limits.get(peer), skipped.get(peer)) for peer in PEERS]
    return [demand for demand in asked if demand[2] is not None]


def against(value, limit):
    """A figure beside its limit, in words."""
    if value is None:
        return "not measured" if limit is not None else ""
    if limit is None:
        return f"{value:.2f}"
    return f"{value:.2f} ok" if value >= limit else f"{value:.2f} short by {limit - value:.3f}"


def faults(report):
    """A line for everything that a check must show and this one does not."""
    smoke = (report.get("smoke") or {}).items()
    found = [f"smoke: {name}: {said['error'] if said else UNREACHED}" for name, said in smoke if _bad(said)]
    found += [f"{name}: {s['error']}" for name, s in (report.get("stages") or {}).items() if s["error"]]
    for row in report["rows"] or []:
        label = f"{row['case']} {row['dtype']}"
        if row.get("error"):
            found.append(f"{label}: {row['error']}")
            continue
        for what, value, limit, why in demands(row):
            if value is None or value < limit:
                found.append(f"{label}: {what} {against(value, limit)}{f' ({why})' if why else ''}, limit {limit:g}")
    for case, value in (report["host_us"] or {}).items():
        if is_step(case) and not (value is not None and value <= HOST_LIMIT_US):
            found.append(
                f"{case}: host time {NOTHING if value is None else f'{value:.1f} us'}, limit {HOST_LIMIT_US} us"
            )
    if not report["rows"]:
        found.append(f"rows: {NOTHING}")
    if report["bits_equal"] is not True:
        found.append(f"bits: {_bits(report.get('bits') or {})}")
    if report["sanitizer_findings"] != 0:
        said = (report.get("sanitizer") or {}).items()
        notes = "; ".join(f"{kind}: {each['note']}" for kind, each in said if each["note"])
        findings = report["sanitizer_findings"]
        found.append(f"sanitizer: {notes or NOTHING if findings is None else f'{findings} findings'}")
    found += _tests(report.get("tests"))
    if report.get("compiled") and not report.get("may_compile"):
        found.append(f"kernels compiled here, which should have been prepared: {report['compiled']}")
    return found


def _bad(said):
    return said is None or said.get("error") is not None


def _bits(bits):
    """What is wrong with the answers, in words. bits: {case: "equal", what differs, or None where it has no answer}."""
    different = [case for case, said in bits.items() if said not in (None, EQUAL)]
    if different:
        return f"different in {', '.join(different[:3])} ({bits[different[0]]}), {len(different)} in all"
    reached = sum(said is not None for said in bits.values())
    return f"{reached} of {len(bits)} cases reached, all equal" if bits else NOTHING


def _tests(tests):
    """What is wrong with the GPU's tests: a line, or nothing."""
    if not tests:
        return [f"GPU tests: {NOTHING}"]
    if tests["failed"] or not tests["passed"] or tests.get("note"):
        note = f" ({tests['note']})" if tests.get("note") else ""
        return [f"GPU tests: {tests['failed']} failed, {tests['passed']} passed{note}"]
    return []


def is_step(case):
    """True for a bound step; a reduction by itself checks its arguments at every call."""
    return not case.startswith("reduce/")


def cells(row, report, show=against):
    """The texts of a row's COLUMNS. show(value, limit): a figure beside its limit."""
    limits = {what: limit for what, _, limit, _ in demands(row)}
    host = row.get("host_us")
    return [
        row["case"],
        row["dtype"],
        "" if row["median_ms"] is None else f"{row['median_ms']:.3f}",
        show(row["share_of_copy"], limits.get("share of copy")),
        *(show(row["peers"].get(peer), limits.get(f"vs {peer}")) for peer in PEERS),
        "" if host is None else f"{host:.1f}",
    ]


def terminal_table(report):
    """The rows beside their limits, for rich."""
    copy = NOTHING if report["copy_gbs"] is None else f"{report['copy_gbs']:.0f} GB/s"
    table = Table(title=f"{report['device']}, {report['date']}, copy {copy}")
    for name in COLUMNS:
        table.add_column(name, no_wrap=True, justify="left" if name in ROW_KEYS[:2] else "right")
    for row in report["rows"] or []:
        table.add_row(*cells(row, report))
    return table


def table(directory):
    """The README's table: Markdown made from the reports in a directory, or "not yet measured"."""
    reports = [json.loads(path.read_text()) for path in sorted(Path(directory).glob("gpu-*.json"))]
    return "\n\n".join(_section(report) for report in reports if report["rows"]) or NOTHING


def _section(report):
    copy = NOTHING if report["copy_gbs"] is None else f"{report['copy_gbs']:.0f} GB/s"
    versions = ", ".join(f"{name} {version}" for name, version in (report["versions"] or {}).items())
    lines = [
        f"{report['device']}, {report['date']}; a copy: {copy}; {versions}.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{' --- |' * 2}{' ---: |' * (len(COLUMNS) - 2)}",
    ]
    lines += [f"| {' | '.join(cells(row, report, _beside))} |" for row in report["rows"]]
    return "\n".join(lines)


def _beside(value, limit):
    if value is None:
        return NOTHING if limit is not None else ""
    return f"{value:.2f}" if limit is None else f"{value:.2f} (limit {limit:g})"
