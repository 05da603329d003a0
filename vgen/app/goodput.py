"""``vgen goodput RUN``: how much of a run's time was spent on steps that stayed."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from vgen.app.terminal import Terminal
from vgen.training.timeline import Goodput, goodput, read

_USAGE = "vgen goodput RUN [format=table|json]"
_ROWS = {
    "productive": "steps that stayed",
    "lost": "steps that were done again",
    "data": "waiting for data",
    "save": "saving",
    "evaluate": "evaluating",
    "draw": "drawing previews",
    "setup": "setting up",
    "down": "between processes",
    "other": "the rest",
}


def main() -> None:
    words = [word for word in sys.argv[1:] if "=" not in word]
    given = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    form = given.pop("format", "table")
    if len(words) != 1 or given:
        raise ValueError(f"give one run's folder: {_USAGE}, got {' '.join(sys.argv[1:]) or 'nothing'}")
    if form not in ("table", "json"):
        raise ValueError(f"format={form} is not known; write format=table or format=json")
    found = goodput(read(Path(words[0]).expanduser()))
    if form == "json":
        print(json.dumps(asdict(found) | {"other": found.other, "share": found.share}, indent=1))
        return
    Terminal(soft_wrap=True).print(told(words[0], found))


def told(name: str, found: Goodput) -> Table:
    """One row for each kind of time that there was."""
    caption = (
        f"{_counted(found.num_steps, 'step')} stayed, {found.num_lost:,} done again, "
        f"{_counted(found.num_restarts, 'restart')}"
    )
    table = Table(
        title=f"{name}: goodput {found.share:.1%} of {_time(found.wall)}",
        caption=caption,
        title_justify="left",
        caption_justify="left",
        min_width=56,
    )
    table.add_column("time")
    for name in ("", "share"):
        table.add_column(name, justify="right")
    for key, label in _ROWS.items():
        seconds = getattr(found, key)
        if seconds >= 0.05:
            table.add_row(label, _time(seconds), f"{seconds / found.wall:.1%}")
    return table


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:,.1f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
