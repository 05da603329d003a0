"""One line of progress for a run that is counted in steps, and a line every so often where output is not a terminal."""
from __future__ import annotations

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_SECONDS = 20.0


class StepBar(ProgressBar):
    """Shows step, loss and time left."""

    def __init__(self, max_steps: int) -> None:
        super().__init__()
        self.max_steps, self._bar, self._task, self._spoken = max_steps, None, None, 0.0

    def disable(self) -> None:
        """Lightning calls this on every rank but the first; those are silent anyway."""

    def enable(self) -> None:
        """The counterpart, called by nobody."""

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        if not trainer.is_global_zero:
            return
        self._began, self._first = time.perf_counter(), trainer.global_step
        if sys.stdout.isatty():
            columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
            self._bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn())
            self._task = self._bar.add_task("", total=self.max_steps, completed=trainer.global_step, note="")
            self._bar.start()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, *_: Any) -> None:
        if not trainer.is_global_zero:
            return
        loss, step = float(outputs["loss"]) * trainer.accumulate_grad_batches, trainer.global_step
        if self._bar is not None:
            self._bar.update(self._task, completed=step, note=f"loss {loss:.4f}")
        elif time.perf_counter() - self._spoken > PLAIN_SECONDS or step == self.max_steps:
            self._spoken = time.perf_counter()
            rate = (self._spoken - self._began) / max(1, step - self._first)
            left = rate * (self.max_steps - step) / 60
            print(f"train: step {step}/{self.max_steps}  loss {loss:.4f}  {rate:.2f} s/step  {left:.1f} min left", flush=True)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self._stop()

    def on_exception(self, *_: Any) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
