"""The picture of a report, drawn from its JSON alone: python profiling/roofline.py FILE.json FILE.png"""

import json

from harness import Parser

from gdgpu.cli import plotting
from gdgpu.core import files

MARKERS = {"cupy": "s", "torch": "D", "torch_compile": "^", "numpy": "v", "read": "X", "usual_state": "P", "usual": "*"}
NEEDED = {"case", "bytes", "median_ms", "share_of_copy", "peers"}
INK, OURS, ROOF, PALE = "#2b2b30", "#4269d0", "#8a8a94", "#ebebef"


def draw(report, path):
    """GB/s of each case under its roof, a copy of as many bytes; peers are lighter marks on the same bytes.

    report: what `run.py --json` or `gpu_check.py` wrote; rows without a time are left out. path: .png, .pdf or .svg.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in report["rows"] if row.get("median_ms")]
    figure = Figure(figsize=(8, 1.7 + 0.4 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axis, marks = figure.add_subplot(), {}
    for y, row in enumerate(rows):
        ours = row["bytes"] / row["median_ms"] / 1e6
        roof = ours / row["share_of_copy"]
        axis.barh(y, roof, height=1, color=PALE, zorder=0)
        (edge,) = axis.plot([roof, roof], [y - 0.5, y + 0.5], color=INK, linewidth=2.5, solid_capstyle="butt")
        bar = axis.barh(y, ours, height=0.5, color=OURS)
        marks |= {"gdgpu": bar, "roof: a copy of as many bytes": edge}
        others = {peer: ours / ratio for peer, ratio in row["peers"].items() if ratio}
        for peer, rate in others.items():
            style = {"color": "white", "markeredgecolor": INK, "markeredgewidth": 0.8, "markersize": 6, "linestyle": ""}
            (marks[peer],) = axis.plot(rate, y, marker=MARKERS.get(peer, "o"), **style)
        end = max(roof, ours, *others.values())
        text = f"{row['share_of_copy']:.0%} of copy"
        axis.annotate(text, (end, y), (7, 0), textcoords="offset points", va="center", fontsize=8.5, color=INK)
    _axes(axis, rows)
    figure.legend(marks.values(), marks, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(_title(report), fontsize=10, x=0.01, ha="left")
    with files.replacing(path) as file:
        figure.savefig(file, format=path.rsplit(".", 1)[1].lower(), dpi=200)


def _axes(axis, rows):
    dtypes = {row["dtype"] for row in rows if row.get("dtype")}
    names = [row["case"] if len(dtypes) < 2 else f"{row['case']} {row['dtype']}" for row in rows]
    sizes = [_bytes(row["bytes"]) for row in rows]
    axis.set_yticks(range(len(rows)), [f"{name}\n{size}" for name, size in zip(names, sizes, strict=True)], fontsize=8)
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(0, axis.get_xlim()[1] * 1.12)  # room for the last percentage
    axis.set_xlabel("GB/s achieved: bytes that the case must move, over the time it takes", fontsize=9)
    axis.xaxis.grid(color="white", linewidth=1)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _title(report):
    measured = ["gdgpu", *(peer.removesuffix("_compile") for row in report["rows"] for peer in row.get("peers", ()))]
    versions = report.get("versions", {})
    shown = ", ".join(f"{name} {versions[name]}" for name in dict.fromkeys(measured) if versions.get(name))
    dtypes = ", ".join(dict.fromkeys(row["dtype"] for row in report["rows"] if row.get("dtype")))
    return f"gdgpu on {report.get('device') or 'a device without a name'}, {dtypes}\n{shown}"


def _bytes(count):
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


def read(path):
    """A report; ValueError if the file is none."""
    try:
        with open(path, encoding="utf-8") as file:
            report = json.load(file)
        rows = [row for row in report["rows"] if row.get("median_ms")]
        missing = set().union(*(NEEDED - row.keys() for row in rows))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(f"{path}: expected the JSON that profiling/run.py or gpu_check.py writes") from None
    if not rows:
        raise ValueError(f"{path}: no row was measured")
    if missing:
        raise ValueError(f"{path}: rows lack {', '.join(sorted(missing))}")
    return report


def main(arguments=None):
    parser = Parser(prog="roofline.py", description=__doc__.split(":")[0])
    parser.add_argument("report", metavar="FILE.json")
    parser.add_argument("plot", metavar="FILE.png")
    given = parser.parse_args(arguments)
    try:
        report = read(given.report)
        files.check_writable(given.plot, "plot")
        plotting.check(given.plot)
    except ValueError as error:
        parser.error(str(error))
    draw(report, given.plot)


if __name__ == "__main__":
    main()
