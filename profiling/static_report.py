"""What the CUDA kernels compile to, with no GPU: python profiling/static_report.py [KERNEL …] [--arch sm_80 …]

A row a kernel, dtype and architecture: registers, bytes spilled, shared memory, threads resident on a multiprocessor,
widths of the loads and stores of the main loop, what must not be there, and bytes in flight on a multiprocessor (see
gdgpu/machine_code/gate.py for how these are defined). Kernels that break a limit are listed below, with the
instruction.
"""

import argparse
import json
import sys
from concurrent.futures import as_completed
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from gdgpu import devices, machine_code
from gdgpu.kernels.catalogue import ROWS

TEXT = {"kernel": "kernel", "dtype": "dtype", "arch": "arch"}  # heading of a column: key of the row
FIGURES = {
    "registers": "registers",
    "spilled": "spill_bytes",
    "shared": "shared_bytes",
    "threads": "threads",
    "loads": "load_bits",
    "stores": "store_bits",
    "float64": "float64_instructions",
    "local": "local_memory_instructions",
    "atomics": "float_atomics",
    "contracted": "contracted",
    "in flight": "bytes_in_flight",
}


def fail(message):
    """Leave with one line for the user."""
    print(f"static_report.py: {message}", file=sys.stderr)
    sys.exit(2)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kernel", nargs="*", metavar="KERNEL", help="e.g. momentum or momentum.float32; default: all")
    parser.add_argument("--arch", nargs="+", action="extend", metavar="ARCH", help="e.g. sm_80 sm_90; default: all")
    parser.add_argument("--dump", metavar="DIR", help="write DIR/KERNEL.DTYPE.ARCH.sass as nvdisasm prints it")
    parser.add_argument("--json", metavar="FILE", help="write the rows and findings here too")
    parser.error = fail
    return parser.parse_args()


def chosen(names, architectures):
    """Rows of the catalogue and architectures, in order; leaves with what there is where a name is unknown."""
    known = dict.fromkeys(row.name for row in ROWS)
    labels = {row.label for row in ROWS}
    # `--arch sm_90 momentum` reads as two architectures
    names = names + [name for name in architectures if name in known or name in labels]
    architectures = [arch for arch in architectures if arch not in names] or list(machine_code.ARCHITECTURES)
    for arch in architectures:
        if arch not in machine_code.ARCHITECTURES:
            fail(f"--arch: expected {', '.join(machine_code.ARCHITECTURES)}, got {arch!r}")
    for name in names:
        if name not in known and name not in labels:
            fail(f"KERNEL: expected {', '.join(known)} (or with a dtype, like {ROWS[0].label}), got {name!r}")
    return [row for row in ROWS if not names or row.name in names or row.label in names], architectures


def inspected(rows, architectures, with_code):
    """(row, report) of each, in order."""
    jobs, pool = machine_code.inspect_rows(dict.fromkeys(rows, architectures), with_code)
    try:
        done = as_completed(jobs.values())
        for job in track(done, "compiling", len(jobs), console=Console(stderr=True), transient=True):
            job.result()
    finally:
        pool.shutdown(cancel_futures=True)
    return [(row, report) for row, job in jobs.items() for report in job.result().values()]


def shown(value):
    """A figure as a cell of the table."""
    if isinstance(value, list):
        return "+".join(map(str, value)) or "none"
    return "?" if value is None else str(value)


def main():
    args = arguments()
    if devices.simulated():
        fail("NUMBA_ENABLE_CUDASIM is set: the simulator compiles nothing")
    if broken := devices.why_no_kernels(compiles=True):
        fail(broken)
    rows, architectures = chosen(args.kernel, args.arch or [])
    complete = True
    try:
        machine_code.tool("nvdisasm")
    except machine_code.MissingToolError as error:
        complete = False
        print(f"static_report.py: {error}; without it no instruction is looked at", file=sys.stderr)
    try:
        if args.dump:
            Path(args.dump).mkdir(parents=True, exist_ok=True)
        if args.json:
            open(args.json, "a").close()
        reports = inspected(rows, architectures, complete)
    except (OSError, RuntimeError) as error:  # of ptxas and nvdisasm too
        fail(error)
    table = Table(*TEXT, *(Column(heading, justify="right") for heading in FIGURES))
    found, written = [], []
    for row, report in reports:
        findings = machine_code.check(report, row.limits)
        figures = report.row() | {"findings": findings}
        table.add_row(*(shown(figures[key]) for key in (TEXT | FIGURES).values()), style="red" if findings else None)
        found += findings
        written.append(figures)
        if args.dump and report.code:
            Path(args.dump, f"{report.label}.sass").write_text(report.code.sass)
    if args.json:
        Path(args.json).write_text(json.dumps(written, indent=1) + "\n")
    # A file or a pipe has no width: 80 columns would cut the names short.
    Console(width=None if sys.stdout.isatty() else 180).print(table)
    for finding in found:
        print(finding)
    sys.exit(1 if found or not complete else 0)


if __name__ == "__main__":
    main()
