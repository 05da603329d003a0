"""How far a piece of work is: bars on a terminal, lines in the log of a job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from vgen.training import progress
from vgen.training.progress import told_seconds

SPEED_OVER_SECONDS = 600.0
"""The time left is told by the pace of the last ten minutes: what an earlier try had done took none."""
PATIENCE_GROWS = 20
"""After a time, the next line comes when this fraction of it has passed again: a log of days stays short."""


class Bars(Progress):
    """Rich's bars; where no terminal shows them, a line for each every so often, the first after ten seconds.

    ``unit`` names one of what is counted. The field ``found`` of a task is said behind the time left.
    """

    def __init__(
        self, *columns: str | ProgressColumn, console: Console, unit: str, transient: bool = True, **more: Any
    ) -> None:
        shown = console.is_terminal and not console.quiet
        more |= {"disable": not shown, "speed_estimate_period": SPEED_OVER_SECONDS}
        super().__init__(*columns, console=console, transient=transient, **more)
        self._unit, self._speaks = unit, not (shown or console.quiet)
        self._spoken: dict[TaskID, float] = {}

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._tell(self._tasks[task_id])

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._tell(self._tasks[task_id])

    def _tell(self, task: Task) -> None:
        elapsed, spoken = task.elapsed or 0.0, self._spoken.get(task.id, 0.0)
        patience = max(progress.PATIENCE_SECONDS, spoken / PATIENCE_GROWS)
        if not self._speaks or task.total is None or elapsed - spoken < patience:
            return
        if not 0 < task.completed < task.total:
            return
        self._spoken[task.id] = elapsed
        left, found = task.time_remaining, task.fields.get("found")
        line = f"{task.description}: {self._unit} {task.completed:.0f} of {task.total:.0f}"
        line += "" if left is None else f", {told_seconds(left)} left"
        print(line + (f", {found}" if found else ""), flush=True)


@contextmanager
def steps_shown(console: Console, total: int, what: str = "drawing") -> Iterator[Callable[[], None]]:
    """How far a drawing is, step by step of its sampler."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, unit="step") as bars:
        task = bars.add_task(what, total=total)
        yield lambda: bars.advance(task)
