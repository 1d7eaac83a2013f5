"""Several training runs side by side: what `gdgpu compare` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.checks import number
from ..core.files import write_json
from ..training import Diverged, fit
from . import plotting, progress
from .train import Session, _check_outputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .options import Options

_LABEL = {"optimizer": "{}", "batch_size": "batch {}", "lr": "lr {}"}


def compare(options: Options, grid: Mapping[str, Sequence[Any]], reach: float | None = None) -> None:
    """Train every combination of `grid`, write the files asked for, show a table.

    options: options.Options, what all runs share. grid: names of options -> values; runs that differ only in
    "seed" are one row. reach: the training loss that is timed, by default the lowest that all runs reach.
    A run that diverges is a row that says so. Raises what session.train raises, Diverged only if every run did.
    """
    _check_outputs(options)
    if reach is not None:
        number("reach", reach)
    rows = _sessions(options, grid)
    runs = [(row, session) for row in rows for session in row.sessions]
    runs[0][1].note(runs[0][1].left_out)
    diverged = {}
    for k, (row, session) in enumerate(runs, 1):
        if progress.is_terminal():
            session.note(f"run {k} of {len(runs)}: {', '.join(row.label)}")
        diverged[session] = _train(session)
    for row in rows:
        row.diverged = [diverged[session] for session in row.sessions if diverged[session]]
    finished = [session for session, error in diverged.items() if not error]
    if reach is None and finished:
        reach = max(min(record["loss"] for record in session.epochs) for session in finished)

    if options.history:
        write_json(options.history, {"reach": reach, "runs": [_record(*run) for run in diverged.items()]})
    session = rows[0].sessions[0]
    title = f"{session.source}: {session.model.name}"
    if options.plot and finished:
        plotting.plot_runs(options.plot, {row.label: None if row.diverged else row.line() for row in rows}, title)
    if not options.quiet:
        caption = [f"epochs and seconds: until the training loss is {reach:.4g}"] if finished else []
        caption += [f"{what}: {text}" for what, text in session.notes.items()]
        progress.show_rows([row.cells(reach) for row in rows], title, "\n".join(caption))
    if not finished:
        raise next(iter(diverged.values()))


@dataclass
class Row:
    """Sessions of one combination, one for each seed. label: its own options. diverged: why some stopped."""

    label: tuple[str, ...]
    sessions: list[Session] = field(default_factory=list)
    diverged: list[Diverged] = field(default_factory=list)

    def line(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """(epochs, seconds, losses) as plotting.plot_runs takes them."""
        losses, seconds = (
            np.array([[record[key] for record in session.epochs] for session in self.sessions])
            for key in ("loss", "seconds")
        )
        return np.arange(1, losses.shape[1] + 1), seconds.cumsum(axis=1).mean(axis=0), losses

    def cells(self, reach: float) -> dict[str, str | None]:
        """The row of the table, by header."""
        options = self.sessions[0].options
        cells = {"optimizer": options.optimizer, "batch": str(options.batch_size)}
        cells["lr"] = _spread([session.hyper["lr"] for session in self.sessions])
        if self.diverged:
            of = f" ({len(self.diverged)} of {len(self.sessions)} seeds)" if len(self.sessions) > 1 else ""
            return cells | {"training loss": f"diverged at step {min(error.step for error in self.diverged)}{of}"}
        measured = [_measure(session, reach) for session in self.sessions]
        return cells | {header: _spread([run[header] for run in measured], header) for header in measured[0]}


def _sessions(options: Options, grid: Mapping[str, Sequence[Any]]) -> list[Row]:
    """A Row for each combination but for the seed. All options are checked before the first run is trained."""
    rows, splits = {}, {}
    varied = [name for name in _LABEL if len(set(grid[name])) > 1] or ["optimizer"]
    for values in product(*(dict.fromkeys(column) for column in grid.values())):
        chosen = dict(zip(grid, values, strict=True))
        session = Session(replace(options, **chosen))
        session.split = splits.setdefault(chosen["seed"], session.split)  # one copy in memory
        label = tuple(_LABEL[name].format(chosen[name]) for name in varied)
        rows.setdefault(label, Row(label)).sessions.append(session)
    return list(rows.values())


def _train(session: Session) -> Diverged | None:
    """Train; the Diverged that stopped it, or None."""
    try:
        _compile(session)
        session.train()
    except Diverged as error:
        return error


def _compile(session: Session) -> None:
    """Take a step and undo it: the seconds of no run contain what happens only once."""
    model, optimizer, split = session.model, session.optimizer, session.split
    params = {name: array.copy() for name, array in model.params.items()}
    state = optimizer.state_dict()
    size = len(split.X) if session.options.batch_size == "full" else session.options.batch_size
    with suppress(Diverged):
        fit(model, split.X[:size], split.t[:size], optimizer, batch_size="full", epochs=1)
    for name, array in params.items():
        model.params[name][...] = array
    optimizer.load_state_dict(state)


def _record(session: Session, diverged: Diverged | None) -> dict[str, Any]:
    """What `gdgpu train --history` writes, and where the run diverged."""
    return {
        "config": session.config,
        "epochs": session.epochs,
        "diverged_at_step": diverged.step if diverged else None,
    }


def _measure(session: Session, reach: float) -> dict[str, Any]:
    """Cells of a run that did not diverge; None where there is nothing to say."""
    epochs, last, metric = session.epochs, session.epochs[-1], session.model.metric_name
    seconds = np.cumsum([record["seconds"] for record in epochs])
    reached = next((k for k, record in enumerate(epochs) if record["loss"] <= reach), None)
    return {
        "training loss": last["loss"],
        "test loss": last["test_loss"],
        f"test {metric}": last["test_metric"],
        "epochs": None if reached is None else reached + 1,
        "seconds": None if reached is None else seconds[reached],
        "samples/s": len(session.split.X) * len(epochs) / seconds[-1],
    }


def _spread(values: list[Any], header: str = "") -> str | None:
    """Mean, and the standard deviation if values differ; None if one is missing."""
    if None in values:
        found = len(values) - values.count(None)
        return {"epochs": f"{found} of {len(values)} seeds" if found else "never"}.get(header)
    mean, deviation = np.mean(values), np.std(values, ddof=1) if len(set(values)) > 1 else 0
    if header == "samples/s":
        return progress.short(mean)
    return f"{mean:.3g}" + (f" ± {deviation:.2g}" if deviation else "")
