"""The whole proof on a GPU: python profiling/gpu_check.py --prebuilt DIR [--out DIR] [--minutes 5]

Smoke (a kernel runs with the CPU's bits), the core rows beside torch, bits, the other rows, compute-sanitizer beside
the tests that need a GPU, other dtypes, slow peers; as much of it as the minutes allow. DIR is what gpu_prepare.py
made: nothing is compiled here. Every result is in OUT/gpu-DEVICE.json as soon as it exists; what was not reached is
null, or says so. Exit status: 0 if everything holds, 1 if not, 2 where there is no GPU or an argument is wrong, 3 if no
kernel runs as it should or one is missing. --plan prints what fits, --table the README's table from the files in OUT.
"""

import argparse
import datetime
import json
import math
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NAME = "profiling/gpu_check.py"


def _refuse(reason, status=2):
    print(f"{NAME}: {reason}", file=sys.stderr)
    return status


try:
    import gpu_prepare
    from cases import PEERS, parse_peers
    from gpu import stages as gpu_stages
    from gpu.plan import RESERVE, Stage, lines, plan
    from gpu.process import each, end_all, python, run
    from gpu.report import Record, empty, faults, path_of, table, terminal_table
    from gpu.smoke import CHECKS, NEEDED
    from harness import Parser
    from rich.console import Console

    from gdgpu import devices
    from gdgpu.kernels.backend import toolchain
except ImportError as error:
    sys.exit(_refuse(f"{error}; needed: what gdgpu[test] brings, and pip install --no-deps --no-build-isolation -e ."))

RESULTS = Path(__file__).parent / "results"
SMOKE = 30  # seconds that it is expected to take; it may take three times as many
SLACK = 2  # a stage may take as many times as long as it was expected to, where there is time


def check(record, stages, end, setting, console):
    """Go through the stages until `end`; the plan is made anew before each of them."""
    waiting = list(stages)
    while waiting:
        start = time.monotonic()
        planned = plan(waiting, end - start)[0]
        last = min(end, start + SLACK * planned.seconds)
        stage = waiting.pop(0)
        ended = {"names": len(planned.names), "seconds": None, "limit": round(last - start, 1), "error": None}
        record.put("stages", stage.name, ended)
        if planned.names:
            try:
                ended["error"] = stage.run(record, planned.names, last, setting)
            except Exception as error:  # what was measured before must survive
                ended["error"] = toolchain.one_line(error)
        if planned.left_out:
            ended["left_out"] = list(planned.left_out)
        ended["seconds"] = round(time.monotonic() - start, 1)
        record.put("stages", stage.name, ended)
        what = "left out" if not planned.names else ended["error"] or f"{len(planned.names)} done"
        console.print(f"{stage.name}: {ended['seconds']:.0f} s, {what}", markup=False, highlight=False)


def smoke(record, end):
    """Whether a kernel runs with the CPU's bits, and what only hardware shows.

    Returns (exit status, why) if nothing else is worth starting.
    """
    record.put("smoke", dict.fromkeys(CHECKS))

    def heard(name, found):
        found.pop("case", None)
        if name == "machine" and "said" in found:
            record.change(lambda report: report.update(found.pop("said")))
        record.put("smoke", name, found)

    def command(left):
        return python("profiling/gpu/smoke.py", *left)

    why = each(command, NEEDED, end, heard, often=1)
    for name in NEEDED:
        found = record.report["smoke"][name]
        error = f"no answer ({why})" if found is None else found.get("error")
        if error:
            return (2, error) if found and found.get("no_gpu") else (3, f"{name}: {error}")
    others = [name for name in CHECKS if name not in NEEDED]
    record.put("smoke_ended", each(command, others, end, heard))
    return None


def missing(directory, sweeps, end):
    """Why the prebuilt kernels will not do, in one line, or None."""
    options = [] if sweeps else ["--no-sweep"]
    done = run(python("profiling/gpu_prepare.py", directory, "--verify", *options), end - time.monotonic())
    if done.cut is not None:  # what is compiled is counted anyway
        return None
    try:
        found = json.loads(done.out[-1])
        absent, is_whole = found["missing"], found["whole"] and not done.status
    except (IndexError, KeyError, TypeError, ValueError):
        return f"--prebuilt: {directory} could not be looked through: {done.why}"
    if absent:
        what = f"{len(absent)} kernels are not in {directory}, {absent[0]} first"
        return f"--prebuilt: {what}: prepare it anew, or --compile"
    return None if is_whole else f"--prebuilt: {directory} is not as it was prepared ({done.why}): prepare it anew"


def unusable(directory):
    """Why this folder is none that gpu_prepare.py made for this check, in one line, or None."""
    manifest, kernels = gpu_prepare.read_manifest(directory), directory / "kernels"
    if not manifest:
        return f"no manifest.json in {directory}; profiling/gpu_prepare.py makes it"
    if not manifest.get("complete"):
        return f"{directory} is not complete: run profiling/gpu_prepare.py on it again"
    if not os.access(kernels, os.W_OK):
        return f"{kernels} cannot be written, so that kernels there would not be taken"
    return None


def parse(arguments, names):
    parser = Parser(prog=NAME, description=__doc__.splitlines()[0])
    out = Path(os.environ.get("OUT") or RESULTS)
    parser.add_argument("--prebuilt", metavar="DIR", type=Path, help="what gpu_prepare.py made")
    parser.add_argument("--compile", action="store_true", help="compile here what is missing; takes minutes")
    parser.add_argument("--out", metavar="DIR", type=Path, default=out, help="where the report goes; default: $OUT")
    parser.add_argument("--minutes", type=_minutes, default=5.0, help="for everything together")
    usual = [name for name in names if name not in gpu_stages.ASKED_FOR]
    parser.add_argument("--stages", nargs="+", choices=names, default=usual, metavar="STAGE", help=", ".join(names))
    parser.add_argument("--peers", metavar="A,B", help=f"of {', '.join(PEERS['cuda'])}; or none; default: all")
    parser.add_argument("--plan", action="store_true", help="print what fits into the minutes, and check nothing")
    parser.add_argument("--table", action="store_true", help="print the README's table, and check nothing")
    return parser, parser.parse_args(arguments)


def _minutes(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"expected a number > 0, got {text}")
    return value


def main(arguments=None):
    began = time.monotonic()
    known = gpu_stages.stages()
    parser, arguments = parse(arguments, [stage.name for stage in known])
    if arguments.table:
        print(table(arguments.out))
        return 0
    stages = [stage for stage in known if stage.name in arguments.stages]
    seconds = 60 * arguments.minutes
    if arguments.plan:
        print(*lines(plan([Stage("smoke", smoke, list(CHECKS), SMOKE), *stages], seconds - RESERVE), seconds), sep="\n")
        return 0
    try:
        peers = parse_peers(arguments.peers, "cuda")
    except ValueError as error:
        parser.error(str(error))
    if devices.simulated():
        return _refuse("NUMBA_ENABLE_CUDASIM is set: a simulator is no GPU")
    if not (arguments.prebuilt or arguments.compile):
        return _refuse("expected --prebuilt DIR, made by profiling/gpu_prepare.py DIR, or --compile")
    if arguments.prebuilt and (reason := unusable(arguments.prebuilt)):
        return _refuse(f"--prebuilt: {reason}")
    record = Record(empty(None, datetime.date.today().isoformat(), {}), arguments.out)
    record.change(gpu_stages.begin)
    if record.unsaved:
        return _refuse(f"--out: cannot be written ({record.unsaved})")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return whole(record, stages, began + seconds - RESERVE, arguments, peers)


def whole(record, stages, end, arguments, peers):
    """Smoke and a look through what was prebuilt, side by side; the stages; the conclusion."""
    answers, folder = None, arguments.prebuilt and arguments.prebuilt.resolve()
    if folder:
        answers = folder / gpu_prepare.ANSWERS
        os.environ |= gpu_prepare.environment(folder)
    prepared, last = set(gpu_prepare.carried(folder)) if folder else None, min(end, time.monotonic() + 3 * SMOKE)
    with ThreadPoolExecutor(1) as pool:
        looked = pool.submit(missing, folder, "sweep" in arguments.stages, last) if folder else None
        ended = smoke(record, last)
        if ended is None and folder and not arguments.compile:
            why = other_architecture(record.report, folder) or looked.result()
            ended = (3, why) if why else None
        end_all()
    if ended:
        status, why = ended
        if status == 2:
            record.forget()
        else:
            record.put("stopped", why)
        return _refuse(why, status)
    check(record, stages, end, gpu_stages.Setting(peers, answers), Console(stderr=True))
    compiled = len(set(gpu_prepare.carried(folder)) - prepared) if folder else None
    record.change(lambda report: report.update(compiled=compiled, may_compile=arguments.compile))
    return conclude(record)


def other_architecture(report, folder):
    """Why machine code for another architecture will not do, or None."""
    made, found = gpu_prepare.read_manifest(folder)["architecture"], report["properties"]["compute_capability"]
    if made == found:
        return None
    return f"--prebuilt: {folder} is for compute capability {made}, the device has {found}: prepare with --arch {found}"


def conclude(record):
    """Print the table and what does not hold; returns the exit status."""
    record.save(flush=True)
    report, found = record.report, faults(record.report)
    print(*report.get("best") or [], sep="\n")
    found += [f"not written: {record.unsaved}"] if record.unsaved else []
    # Into a file or a pipe rich would squeeze it to 80 columns.
    Console(width=None if sys.stdout.isatty() else 160).print(terminal_table(report))
    print(
        *(found or ["Limits, bits, sanitizer and tests hold."]),
        f"written to {path_of(record.directory, report['device'])}",
        sep="\n",
    )
    return 1 if found else 0


def stop(number, frame):
    """Leave at once; what was found is in the file."""
    end_all()
    os._exit(128 + number)  # threads that wait for a process must not hold it up


if __name__ == "__main__":
    sys.exit(main())
