"""Signals end a run between two optimiser steps, on all ranks after the same one, and what was learnt is
saved."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import pytorch_lightning as pl
import torch

from vgen.training.exits import Stopped, code_of
from vgen.training.saving import save_now

log = logging.getLogger(__name__)

HEARD = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LOST = float("inf")
"""Greater than every signal: the run's folder has gone to another process."""


class Signals:
    """A context in which signals are remembered while there are steps, and end the process at once before
    there are any. What comes after the last step finds the run nearly done and is left to end."""

    def __init__(self) -> None:
        self.asked = 0
        self.in_steps = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._former = {signum: signal.getsignal(signum) for signum in HEARD}
            self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._former.items():
            signal.signal(signum, handler)

    def listen(self) -> None:
        """Lightning puts a handler of its own in front, which waits for other ranks within the handler."""
        for signum in self._former:
            signal.signal(signum, self._hear)

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        again = signum == signal.SIGINT and self.asked == signum
        if self.in_steps and not again:
            self.asked = signum
            return
        if signum == signal.SIGINT:
            raise KeyboardInterrupt
        name = signal.Signals(signum).name
        log.warning("stopped by %s outside of training steps", name)
        raise Stopped(code_of(signum), name)


class Boundary(pl.Callback):
    """Asks all ranks after every optimiser step whether one of them was told to stop; then all save, and all
    leave before the next step. It stands behind what saves and averages."""

    def __init__(self, signals: Signals, is_lost: Callable[[], bool], folder: Path) -> None:
        self.signals, self.is_lost, self.folder = signals, is_lost, folder
        self._seen, self._agreed = -1, 0.0

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._seen = trainer.global_step
        self.signals.in_steps = True
        self.signals.listen()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if trainer.global_step == self._seen:
            return  # accumulating
        self._seen = trainer.global_step
        self._agreed = self._highest(trainer)
        if self._agreed == LOST:
            raise ValueError(
                f"run {self.folder} was taken over by another process while this one was away; "
                f"step {trainer.global_step} is not saved: stop one of them"
            )
        if self._agreed and trainer.global_step < trainer.max_steps:
            save_now(trainer, module)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._leave_if_agreed(trainer)

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._leave_if_agreed(trainer)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        if self.signals.asked:
            log.warning("all steps are done; the run ends by itself")

    def _highest(self, trainer: pl.Trainer) -> float:
        """What one rank was told all ranks know."""
        asked = LOST if self.is_lost() else float(self.signals.asked)
        if trainer.world_size == 1:
            return asked
        told = torch.tensor(asked, device=trainer.strategy.root_device)
        return float(trainer.strategy.reduce(told, reduce_op="max"))

    def _leave_if_agreed(self, trainer: pl.Trainer) -> None:
        """Not where the figures of the step are not yet written, which Lightning does after the step's last
        hook; and not from a run that is about to end by itself."""
        if not self._agreed or trainer.global_step >= trainer.max_steps:
            return
        signum = signal.Signals(int(self._agreed))
        raise Stopped(code_of(signum), signum.name)
