"""Speed of gdgpu against a copy and against its peers: python profiling/run.py [CASE …] [--json FILE] [--plot FILE]"""

import sys
from datetime import UTC, datetime
from importlib.util import find_spec
from itertools import chain

import cases
import harness
import numpy as np
import roofline
from peers import Arrays, forget_compiled
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from gdgpu import devices
from gdgpu.cli import plotting
from gdgpu.core import files
from gdgpu.core.checks import count
from gdgpu.kernels.backend import threads
from gdgpu.kernels.backend.toolchain import one_line


def measure(names, device, peers, dtype="float32", repeats=None, progress=None):
    """A row, a dict, for each case; {"case", "dtype", "error"} where gdgpu could not run it.

    names: of cases.CASES, or like them with another size. peers: of cases.PEERS; each case has some of them. repeats:
    how often a case is measured, on fresh arrays each time; None: as the device needs. progress: called with a line
    when a case begins, and for each contender that is left out.
    """
    clock, rows, progress = harness.clock(device), [], progress or (lambda line: None)
    chosen, peers = [cases.find(name) for name in names], _present(peers, device, progress)
    for case in chosen:
        progress(f"{case.name}: measuring")
        skipped = {}
        try:
            rows.append(_row(case, clock, peers, dtype, repeats or clock.repeats, skipped))
        except Exception as error:
            skipped["gdgpu"] = one_line(error)
            rows.append({"case": case.name, "dtype": dtype, "error": skipped["gdgpu"]})
        for peer, reason in skipped.items():
            progress(f"{case.name}: {peer} left out: {reason}")
        forget_compiled()
        clock.release()
    return rows


def _present(peers, device, progress):
    """Those of the peers that there are for the device; a line for each of the others."""
    torch, lines = None, {}
    if any(peer.startswith("torch") for peer in peers) and find_spec("torch"):
        import torch

        torch.set_num_threads(threads.num_threads())
    for peer in peers:
        if peer not in cases.PEERS[device]:
            lines[peer] = f"{peer}: not measured on {device}, only {', '.join(cases.PEERS[device])}"
        elif peer.startswith("torch") and torch is None:
            lines[peer] = 'torch: not installed; pip install -e ".[peers]"'
        elif peer.startswith("torch") and device == "cuda" and not torch.cuda.is_available():
            lines[peer] = f"torch: {torch.__version__} has no CUDA here; install a build of torch for CUDA"
    for line in dict.fromkeys(lines.values()):
        progress(line)
    return [peer for peer in peers if peer not in lines]


def _row(case, clock, peers, dtype, repeats, skipped):
    arrays = Arrays(clock.xp, dtype)
    taken, ratios, host = [], {}, []
    for _ in range(repeats):
        nbytes, contenders = _contenders(case, clock, arrays, peers, skipped)
        turns, sets = harness.interleave(clock, contenders), len(contenders["gdgpu"])
        host.append(clock.host_seconds(contenders["gdgpu"]))
        del contenders
        clock.release()
        ours = turns.pop("gdgpu")
        taken += chain(*ours)
        for name, others in turns.items():
            ratios.setdefault(name, []).append(harness.ratios(ours, others))
    first, median, third = (float(q) * 1e3 for q in np.quantile(taken, (0.25, 0.5, 0.75)))
    share = float(np.median(ratios.pop("copy")))
    limited = clock.device == "cuda" and dtype == case.dtype
    return {
        "case": case.name,
        "dtype": dtype,
        "bytes": nbytes,
        "parameters": case.parameters,
        "median_ms": median,
        "spread": [first, third],
        "gbs": nbytes / median / 1e6,
        "share_of_copy": share,
        "limit": case.limit if limited else None,
        "peers": {peer: float(np.median(r)) for peer, r in ratios.items()},
        "torch": case.torch if "torch" in ratios else None,
        "peer_spread": {peer: [f(np.median(r, axis=1)).item() for f in (np.min, np.max)] for peer, r in ratios.items()},
        "peer_limit": case.peer_limit if limited else None,
        "host_us": None if None in host else float(np.median(host)) * 1e6,
        "sets": sets,
        "skipped": skipped,
    }


def _contenders(case, clock, arrays, peers, skipped):
    """(bytes, {name: [a call for each set of arrays]}), warmed up. A peer that fails goes to `skipped`."""
    nbytes, makers = case.problem(arrays)
    names = ["gdgpu", "copy", *(peer for peer in peers if peer in makers and peer not in skipped)]
    number = harness.sets_of(clock, nbytes, len(names))
    sets = [makers, *(case.problem(arrays)[1] for _ in range(number - 1))]
    contenders = {}
    for name in names:
        try:
            calls = [clock.copy(nbytes) if name == "copy" else makers[name]() for makers in sets]
            clock.warm(calls)
            contenders[name] = calls
        except Exception as error:
            if name in ("gdgpu", "copy"):
                raise
            skipped[name] = one_line(error)
    return nbytes, contenders


def table(rows, title):
    """The measured rows as a rich table, without empty columns; what misses its limit is red."""
    rows = [row for row in rows if "error" not in row]
    peers = list(dict.fromkeys(peer for row in rows for peer in row["peers"]))
    lines = [_cells(row, peers) for row in rows]
    shown = Table(title=title, title_justify="left", box=SIMPLE)
    columns = [name for name in lines[0] if any(line[name] for line in lines)]
    for name in columns:
        shown.add_column(name, justify="left" if name in ("case", "torch's") else "right", no_wrap=True)
    for line in lines:
        shown.add_row(*(line[name] for name in columns))
    return shown


def _cells(row, peers):
    """{heading: text} of a row."""
    limits = row["peer_limit"] if isinstance(row["peer_limit"], dict) else dict.fromkeys(peers, row["peer_limit"])
    first, third = row["spread"]
    return {
        "case": row["case"],
        "MB": f"{row['bytes'] / 1e6:.4g}",
        "bytes each": f"{row['bytes'] / row['parameters']:.4g}" if row["parameters"] else "",
        "ms (quartiles)": f"{row['median_ms']:.4g} ({first:.4g} to {third:.4g})",
        "GB/s": f"{row['gbs']:.4g}",
        "of copy": _marked(row["share_of_copy"], ".0%", row["limit"]),
        **{f"vs {peer}": _marked(row["peers"].get(peer), ".2f", limits.get(peer)) for peer in peers},
        "torch's": row["torch"] or "",
        "host us": _marked(row["host_us"], ".1f"),
    }


def _marked(value, form, limit=None):
    if value is None:
        return ""
    return f"[red]{value:{form}}[/]" if limit is not None and value < limit else f"{value:{form}}"


def report(device, rows):
    """What --json writes: the rows, and where and with what they were measured."""
    return {
        "device": harness.device_name(device),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": harness.versions(),
        "copy_gbs": harness.copy_gbs(device),
        "rows": rows,
    }


def _parser():
    parser = harness.Parser(prog="run.py", description=__doc__.split(":")[0])
    words, peers = ", ".join(cases.WORDS), ", ".join(cases.KNOWN_PEERS)
    parser.add_argument("case", nargs="*", help=f"{words}, or a case like reduce/64x784; default: all of them")
    parser.add_argument("--sizes", nargs="+", metavar="SIZE", help="in place of the table's: 64x784 2^20x64 50e6")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: the GPU where there is one")
    parser.add_argument("--dtype", choices=cases.DTYPES, default="float32")
    parser.add_argument("--peers", metavar="A,B", help=f"of {peers}; or none; default: all that the device has")
    parser.add_argument("--repeats", type=int, help="how often each case is measured, on fresh arrays each time")
    parser.add_argument("--json", metavar="FILE", help="write the rows there too")
    parser.add_argument("--plot", metavar="FILE.png", help="draw them, as profiling/roofline.py does from the JSON")
    return parser


def main(arguments=None):
    parser = _parser()
    given = parser.parse_args(arguments)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        device = devices.resolve(given.device).name
        harness.clock(device)
        names = cases.select(given.case, given.sizes, device)
        peers = cases.parse_peers(given.peers, device)
        repeats = None if given.repeats is None else count("repeats", given.repeats, least=1)
        for option in ("json", "plot"):
            if getattr(given, option):
                files.check_writable(getattr(given, option), option)
        if given.plot and find_spec("matplotlib"):
            plotting.check(given.plot)
    except ValueError as error:
        parser.error(str(error))
    rows = measure(names, device, peers, given.dtype, repeats, lambda line: console.print(line, markup=False))
    if all("error" in row for row in rows):
        sys.exit(1)
    result = report(device, rows)
    title = f"{result['device']}, copy {result['copy_gbs']:.4g} GB/s; a ratio above 1: gdgpu is faster"
    Console(width=None if sys.stdout.isatty() else 160).print(table(rows, title))
    if given.json:
        files.write_json(given.json, result)
    if given.plot and not find_spec("matplotlib"):
        console.print('plot: matplotlib is not installed; pip install -e ".[plot]"', markup=False)
    elif given.plot:
        roofline.draw(result, given.plot)


if __name__ == "__main__":
    main()
