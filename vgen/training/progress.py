"""One line of progress for a run that is counted in steps, and a line every so often where output is not a
terminal."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_SECONDS, BAR_SECONDS, PATIENCE_SECONDS = 20.0, 0.2, 10.0
"""Between two lines of a log, between two updates of a bar, and between two lines beside a bar."""

PREDICTED_AFTER = 3
"""Steps after which the time of a training is said; a bar says it by itself."""


class StepBar(ProgressBar):
    """Shows step, loss and time left."""

    def __init__(self, max_steps: int) -> None:
        super().__init__()
        self.max_steps, self._spoken = max_steps, 0.0
        self._bar: Progress | None = None
        self._task = TaskID(0)  # the bar's, once there is one

    def disable(self) -> None:
        """Lightning calls this on every rank but the first; those are silent anyway."""

    def enable(self) -> None:
        """The counterpart, called by nobody."""

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        if not trainer.is_global_zero:
            return
        self._began, self._first = time.perf_counter(), trainer.global_step
        self._second, self._predicted = self._began, False
        if sys.stdout.isatty():
            columns = (
                TextColumn("train"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn())
            self._task = self._bar.add_task("", total=self.max_steps, completed=trainer.global_step, note="")
            self._bar.start()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, *_: Any) -> None:
        if not trainer.is_global_zero:
            return
        step, last = trainer.global_step, trainer.global_step == self.max_steps
        if step == self._first + 1:
            self._second = time.perf_counter()
        if step == self._first + PREDICTED_AFTER and not self._predicted:
            self._predict(step)
        seconds = PLAIN_SECONDS if self._bar is None else BAR_SECONDS
        if time.perf_counter() - self._spoken < seconds and not last:
            return  # reading the loss makes a GPU wait, so it is not read at every step
        self._spoken = time.perf_counter()
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        if self._bar is not None:
            self._bar.update(self._task, completed=step, note=f"loss {loss:.4f}")
        else:
            rate = (self._spoken - self._began) / max(1, step - self._first)
            left = rate * (self.max_steps - step) / 60
            print(
                f"train: step {step}/{self.max_steps}  loss {loss:.4f}  {rate:.2f} s/step  {left:.1f} min "
                "left",
                flush=True,
            )

    def _predict(self, step: int) -> None:
        """The first step warms up, so that the rate is that of those after it."""
        self._predicted, left = True, self.max_steps - step
        rate = (time.perf_counter() - self._second) / (PREDICTED_AFTER - 1)
        if left and self._bar is None:
            print(
                f"train: {left} steps are left, {told_seconds(rate * left)} at {rate:.2f} s each", flush=True
            )

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self._stop()

    def on_exception(self, *_: Any) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class TimeLeft:
    """A line every so often on what takes long beside or without a bar: the first after ten seconds."""

    def __init__(self, what: str, num_steps: int, speaks: bool = True) -> None:
        self.what, self.num_steps, self.speaks = what, num_steps, speaks
        self._began = self._spoken = time.perf_counter()
        self._done = 0

    def step(self) -> None:
        """One step more is done."""
        self._done += 1
        now = time.perf_counter()
        if not self.speaks or now - self._spoken < PATIENCE_SECONDS or self._done >= self.num_steps:
            return
        self._spoken = now
        left = (now - self._began) / self._done * (self.num_steps - self._done)
        print(f"{self.what}: step {self._done} of {self.num_steps}, {told_seconds(left)} left", flush=True)


def told_seconds(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
