"""How far a drawing is, step by step of its sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vgen.training.progress import TimeLeft


@contextmanager
def steps_shown(console: Console, total: int, what: str = "drawing") -> Iterator[Callable[[], None]]:
    """A bar of steps of the sampler; lines where nobody watches a bar."""
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=console.quiet) as progress:
        task = progress.add_task("", total=total)
        told = TimeLeft(what, total, speaks=not (console.is_terminal or console.quiet))

        def on_step() -> None:
            progress.advance(task)
            told.step()

        yield on_step
