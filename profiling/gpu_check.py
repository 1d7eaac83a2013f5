"""The whole proof on a GPU: python profiling/gpu_check.py [--out DIR] [--minutes 9.5]

Bits against the CPU's, speed and host time against torch and CuPy, compute-sanitizer, the tests that need a GPU. Writes
DIR/gpu-DEVICE.json, after every stage and every row; what was not reached is null in it. Exit status: 0 if everything
holds, 1 if not, 2 where there is no GPU. --table prints the README's table, made from the files in DIR.
"""

import argparse
import datetime
import math
import signal
import sys
import time
from pathlib import Path

from gpu_process import end_all
from gpu_report import empty, faults, path_of, table, terminal_table, write
from rich.console import Console

NAME = "profiling/gpu_check.py"
RESULTS = Path(__file__).parent / "results"


def check(report, out, minutes, stages, console):
    """Fill in the report, stage by stage; each gets its share of the time that is left."""

    def save():
        write(report, out)

    save()
    end = time.monotonic() + 60 * minutes
    report["stages"] = {}
    for k, (name, (stage, share)) in enumerate(stages.items()):
        start = time.monotonic()
        seconds = max(0.0, end - start) * share / sum(share for _, share in list(stages.values())[k:])
        with console.status(f"{name}: {stage.__doc__.splitlines()[0]} At most {seconds:.0f} s"):
            ended = report["stages"][name] = {"limit": round(seconds, 1), "error": None}
            try:
                stage(report, seconds, save)
            except Exception as error:  # what was measured before must survive
                ended["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
        ended["seconds"] = round(time.monotonic() - start, 1)
        save()
        console.print(f"{name}: {ended['seconds']:.0f} s {ended['error'] or ''}", markup=False)


def describe():
    """What the driver says of the device, for the report."""
    import cupy

    runtime = cupy.cuda.runtime
    has = runtime.getDeviceProperties(runtime.getDevice())
    return {
        "compute_capability": f"{has['major']}.{has['minor']}",
        "multiprocessors": has["multiProcessorCount"],
        "memory_gib": round(has["totalGlobalMem"] / 2**30, 1),
        "l2_mib": round(has["l2CacheSize"] / 2**20, 1),
        "driver": runtime.driverGetVersion(),
        "runtime": runtime.runtimeGetVersion(),
        "devices": runtime.getDeviceCount(),
    }


def parse(arguments, names):
    from harness import Parser

    parser = Parser(prog=NAME, description=__doc__.splitlines()[0])
    parser.add_argument("--out", metavar="DIR", type=Path, default=RESULTS, help="where the report goes")
    parser.add_argument("--minutes", type=_minutes, default=9.5, help="for all stages together")
    parser.add_argument("--stages", nargs="+", choices=names, default=names, metavar="STAGE", help=", ".join(names))
    parser.add_argument("--table", action="store_true", help="print the README's table, and check nothing")
    return parser.parse_args(arguments)


def _minutes(text):
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"expected a number > 0, got {text}")
    return value


def main(arguments=None):
    try:
        import gpu_stages
        import harness

        from gdgpu import devices
    except ImportError as error:
        return _refuse(f"{error}; install gdgpu first: pip install --no-deps --no-build-isolation -e .")
    arguments = parse(arguments, list(gpu_stages.STAGES))
    if arguments.table:
        print(table(arguments.out))
        return 0
    reason = "NUMBA_ENABLE_CUDASIM is set: a simulator is no GPU" if devices.simulated() else devices.why_no_cuda()
    if reason:
        return _refuse(reason)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    console = Console(stderr=True)
    today = datetime.date.today().isoformat()
    report = empty(harness.device_name("cuda"), today, harness.versions()) | {"properties": describe()}
    stages = {name: stage for name, stage in gpu_stages.STAGES.items() if name in arguments.stages}
    check(report, arguments.out, arguments.minutes, stages, console)
    return conclude(report, arguments.out)


def conclude(report, out):
    """Print the table and what does not hold; returns the exit status."""
    found = faults(report)
    # Into a file or a pipe rich would squeeze it to 80 columns.
    Console(width=None if sys.stdout.isatty() else 160).print(terminal_table(report))
    print(
        *(found or ["Limits, bits, sanitizer and tests hold."]),
        f"written to {path_of(out, report['device'])}",
        sep="\n",
    )
    return 1 if found else 0


def stop(number, frame):
    """Leave at once; what was found is in the file."""
    end_all()
    sys.exit(128 + number)


def _refuse(reason):
    print(f"{NAME}: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
