"""What a run shows: a progress bar on standard error, tables on standard output."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from ..optimizers.base import Optimizer

LINE = 300  # characters that an error or a note has at most
_INTERVAL = 0.1  # seconds between updates, each of which reads a loss and so waits for a GPU


class TrainingBar:
    """Progress with loss, samples per second and effective GB/s, both averages since the first step ended.

    Bytes counted: 4 for each feature of each sample that a gradient reads, and `step_bytes` for each step.
    """

    def __init__(self, session: Any) -> None:
        self.samples, self.epochs = len(session.split.X), session.options.epochs
        self.done = self.samples * len(session.epochs)
        self.sample_bytes, self.step_bytes = 4 * session.model.n_features, step_bytes(session.optimizer)
        self.read = self.steps = 0
        self.started = self.shown = None

    def __enter__(self) -> TrainingBar:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:3.0f}%  {task.fields[speed]}"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=console(stderr=True), auto_refresh=False, expand=True)
        total = self.samples * self.epochs
        self.task = self.progress.add_task("", total=total, **self._fields(""))
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def on_step(self, samples: int, loss: Any) -> None:
        self.done += samples
        now = time.perf_counter()
        if self.started is None:  # the first step compiles
            self.started = self.shown = now
            return
        self.read += samples
        self.steps += 1
        if now - self.shown >= _INTERVAL or self.done == self.samples * self.epochs:
            self.shown = now
            seconds = max(now - self.started, 1e-9)
            rate = (self.read * self.sample_bytes + self.steps * self.step_bytes) / seconds / 1e9
            speed = f"{short(self.read / seconds)} samples/s  {rate:.3g} GB/s"
            self.progress.update(self.task, **self._fields(f"loss {float(loss):.4g}  {speed}"), refresh=True)

    def _fields(self, speed: str) -> dict[str, Any]:
        epoch = min(self.done // self.samples + 1, self.epochs)
        return {"completed": self.done, "epoch": f"{epoch}/{self.epochs}", "speed": speed}


def step_bytes(optimizer: Optimizer) -> int:
    """Bytes that a step moves: it reads w, g and the state, and writes w and the state, each once."""
    params = optimizer.params.values()
    state = optimizer.state_dict()["state"].values()
    state_bytes = sum(array.nbytes for arrays in state for array in arrays.values())
    return 3 * sum(array.nbytes for array in params) + 2 * state_bytes


def is_terminal() -> bool:
    """Whether standard error is one, where a progress bar makes sense."""
    return sys.stderr.isatty()


def console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def show_table(rows: Iterable[tuple[str, object]], title: str | None = None) -> None:
    """Print (name, value) rows; a value of None leaves its row out."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE, show_header=False, title=title, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value is not None:
            table.add_row(Text(name), Text(str(value)))  # Text: square brackets in a path are no markup
    console().print(table)


def show_rows(rows: Sequence[dict[str, str | None]], title: str | None = None, caption: str | None = None) -> None:
    """Print rows {header: text}, None for an empty cell; columns that are empty throughout are left out.

    Each row is a table of its own where the terminal is too narrow for one of all.
    """
    from rich.box import SIMPLE
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    headers = list(dict.fromkeys(header for row in rows for header, text in row.items() if text is not None))
    table = Table(
        box=SIMPLE, title=title and Text(title), caption=caption, title_justify="left", caption_justify="left"
    )
    for header in headers:
        table.add_column(header, justify="left" if header == headers[0] else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(row.get(header) or "") for header in headers))
    screen = console()
    needed = Measurement.get(screen, screen.options.update(max_width=10_000), table)
    if not screen.is_terminal:  # a file has no width
        screen.width = max(screen.width, needed.maximum)
    if needed.minimum <= screen.width:
        screen.print(table)
        return
    for row in rows:
        show_table(row.items(), title)
        title = None
    if caption:
        screen.print(caption)


def note(text: str) -> None:
    """One line of news on standard error."""
    console(stderr=True).print(one_line(text, sys.stderr.encoding), markup=False, soft_wrap=True)


def one_line(text: str, encoding: str | None = None) -> str:
    """Text that may quote anything as one printable line of at most LINE characters, with its middle left out."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(_ends(text, 4 * LINE).split()))
    encoding = encoding or "utf-8"
    return _ends(shown.encode(encoding, "backslashreplace").decode(encoding), LINE)


def _ends(text: str, size: int) -> str:
    """The text, or what fits of its beginning and its end."""
    if len(text) <= size:
        return text
    last = size // 3
    return f"{text[: size - last - 5]} ... {text[-last:]}"


def short(number: float) -> str:
    """1234567 -> "1.23M"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
