"""What a run's processes did with their time, as a file in its folder, and what of it was productive."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from vgen.data.files import lines_of
from vgen.training.clock import Clock, Doing

log = logging.getLogger(__name__)
TIMELINE = "timeline.jsonl"
BEGIN, STEPS, END = "begin", "steps", "end"


class Timeline:
    """Appends a line at the beginning of a process, every ``every`` steps and at its end: the time, the step
    and the seconds of this process so far by what it did. A disk that refuses ends no training."""

    def __init__(self, folder: Path, clock: Clock, every: int) -> None:
        self.path, self.clock, self.every = folder / TIMELINE, clock, every
        self._refused = False

    def begin(self, step: int) -> None:
        """A process goes on from ``step``; its time began with its clock."""
        self._append({"event": BEGIN, "at": self.clock.began_at, "step": step, "seconds": {}})

    def note(self, event: str, step: int) -> None:
        seconds = {doing.value: round(value, 3) for doing, value in self.clock.seconds().items()}
        self._append({"event": event, "at": time.time(), "step": step, "seconds": seconds})

    def _append(self, row: dict[str, Any]) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            if not self._refused:
                log.warning("%s is not written for now (%s)", self.path, error.strerror)
            self._refused = True


class TimelineRows(pl.Callback):
    """The timeline of rank 0. It stands behind all that a step is followed by, and ahead of ClockOut."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self._seen = -1

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        step = trainer.global_step
        if trainer.is_global_zero and step != self._seen and step % self.timeline.every == 0:
            self.timeline.note(STEPS, step)
        self._seen = step

    def on_exception(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.is_global_zero:
            self.timeline.note(END, trainer.global_step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodput:
    """Seconds of a run from its first process to its last line. ``productive`` are those of steps whose
    result stayed; ``lost`` those of steps that were done again; ``down`` those between a process's last
    line and the next process."""

    wall: float
    productive: float
    lost: float
    data: float
    setup: float
    save: float
    evaluate: float
    draw: float
    down: float
    num_steps: int
    num_lost: int
    num_restarts: int

    @property
    def share(self) -> float:
        return self.productive / self.wall if self.wall else 0.0

    @property
    def other(self) -> float:
        """Averages, figures, writing what was learnt."""
        parts = (self.productive, self.lost, self.data, self.setup, self.save, self.evaluate, self.draw)
        return max(0.0, self.wall - sum(parts) - self.down)


def read(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's timeline; one that was cut while it was written is left out. Raises ValueError
    where there is none."""
    path = folder / TIMELINE
    if not path.is_file():
        raise ValueError(
            f"{folder} has no {TIMELINE}; give the folder of a run that this version of vgen began"
        )
    lines = lines_of(path.read_text(encoding="utf-8", errors="replace"))
    rows = [row for line in lines if (row := _row(line)) is not None]
    if not rows or rows[0]["event"] != BEGIN:
        raise ValueError(f"{path} does not begin with a process; its first line must say {BEGIN!r}")
    return rows


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and {"event", "at", "step", "seconds"} <= row.keys() else None


def goodput(rows: Sequence[dict[str, Any]]) -> Goodput:
    """Of all processes of a run."""
    begins = [i for i, row in enumerate(rows) if row["event"] == BEGIN]
    processes = [list(rows[start:end]) for start, end in pairwise([*begins, len(rows)])]
    spent = {doing: sum(_seconds(one[-1], doing) for one in processes) for doing in Doing}
    lost, num_lost, down = 0.0, 0, 0.0
    for one, after in pairwise(processes):
        goes_on = after[0]["step"]
        num_lost += max(0, one[-1]["step"] - goes_on)
        lost += _seconds(one[-1], Doing.STEP) - _at_step(one, goes_on)
        down += max(0.0, after[0]["at"] - one[-1]["at"])
    return Goodput(
        wall=rows[-1]["at"] - rows[0]["at"],
        productive=spent[Doing.STEP] - lost,
        lost=lost,
        data=spent[Doing.DATA],
        setup=spent[Doing.SETUP],
        save=spent[Doing.SAVE],
        evaluate=spent[Doing.EVALUATE],
        draw=spent[Doing.DRAW],
        down=down,
        num_steps=rows[-1]["step"] - rows[0]["step"],
        num_lost=num_lost,
        num_restarts=len(processes) - 1,
    )


def _seconds(row: dict[str, Any], doing: Doing) -> float:
    return float(row["seconds"].get(doing.value, 0.0))


def _at_step(process: Sequence[dict[str, Any]], step: int) -> float:
    """Seconds of steps that a process had done up to ``step``; between two lines in proportion."""
    for before, after in pairwise(process):
        if before["step"] <= step < after["step"]:
            share = (step - before["step"]) / (after["step"] - before["step"])
            first, last = _seconds(before, Doing.STEP), _seconds(after, Doing.STEP)
            return first + share * (last - first)
    return _seconds(process[-1], Doing.STEP) if step >= process[-1]["step"] else 0.0
