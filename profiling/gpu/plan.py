"""What fits into the minutes of a GPU check, by worth: whole stages first, then as many items of the next as fit.

The plan is made anew before every stage with the seconds that are left then, so that a slow stage shortens the last
ones and a quick one lets them in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

RESERVE = 6  # seconds for the beginning and the end


@dataclass(frozen=True)
class Stage:
    """A part of the check. run(record, names, end, setting) goes through the names until `end` of time.monotonic().

    names: what it goes through, worth most first. start, each: seconds that it is expected to take, besides and for
    each name. least: it is not begun with fewer seconds. gives_way: its last names are worth less than the least of
    stages behind it.
    """

    name: str
    run: Callable
    names: Sequence[str]
    start: float
    each: float = 0.0
    least: float | None = None
    gives_way: bool = False

    @property
    def seconds(self) -> float:
        """What the whole stage is expected to take."""
        return self.start + self.each * len(self.names)

    @property
    def says(self) -> str:
        """What it does, in a line."""
        return self.run.__doc__.splitlines()[0]


@dataclass(frozen=True)
class Planned:
    """A stage with the names that fit, the seconds it gets, and the names that are left out."""

    stage: Stage
    names: Sequence[str]
    seconds: float
    left_out: Sequence[str]


def plan(stages: Sequence[Stage], seconds: float) -> list[Planned]:
    """Share the seconds out; what does not fit is left out, and what is worth less may still fit."""
    planned = []
    for k, stage in enumerate(stages):
        behind = sum(other.least or 0 for other in stages[k + 1 :]) if stage.gives_way else 0
        count = _fitting(stage, seconds - behind)
        takes = min(seconds, stage.start + stage.each * count) if count else 0.0
        planned.append(Planned(stage, stage.names[:count], takes, stage.names[count:]))
        seconds -= takes
    return planned


def _fitting(stage: Stage, seconds: float) -> int:
    """How many of the stage's names fit."""
    least = stage.start + stage.each if stage.least is None else stage.least
    if seconds < least:
        return 0
    if seconds >= stage.seconds or not stage.each:
        return len(stage.names)
    return max(0, int((seconds - stage.start) / stage.each))


def lines(planned: Sequence[Planned], seconds: float) -> list[str]:
    """The plan in words: a line a stage, one for what is left out, one for the sum."""
    shown = [
        f"{p.stage.name:10s} {p.seconds:4.0f} s  {len(p.names)} of {len(p.stage.names)}  {p.stage.says}"
        for p in planned
    ]
    left = [f"{p.stage.name}: {_some(p)}" for p in planned if p.left_out]
    total = sum(p.seconds for p in planned)
    return [*shown, f"left out: {'; '.join(left) or 'nothing'}", f"sum: {total:.0f} s of {seconds:.0f} s"]


def _some(planned: Planned, shown: int = 4) -> str:
    if not planned.names:
        return "all"
    more = len(planned.left_out) - shown
    return ", ".join(planned.left_out[:shown]) + (f" and {more} more" if more > 0 else "")
