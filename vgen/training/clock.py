"""Where the time of a training process goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

import pytorch_lightning as pl


class Doing(Enum):
    """``OTHER`` is what follows a step and is none of the rest: averages, figures, the progress bar."""

    SETUP = "setup"
    STEP = "step"
    DATA = "data"
    SAVE = "save"
    EVALUATE = "evaluate"
    DRAW = "draw"
    OTHER = "other"


class Clock:
    """Seconds by what a process does; each second counts once."""

    def __init__(self) -> None:
        self.began_at, self._since = time.time(), time.monotonic()
        self._doing = Doing.SETUP
        self._seconds = dict.fromkeys(Doing, 0.0)

    def enter(self, doing: Doing) -> None:
        """From now on this process does something else."""
        now = time.monotonic()
        self._seconds[self._doing] += now - self._since
        self._doing, self._since = doing, now

    @contextmanager
    def during(self, doing: Doing) -> Iterator[None]:
        """Something within another, which goes on behind it."""
        before = self._doing
        self.enter(doing)
        try:
            yield
        finally:
            self.enter(before)

    def seconds(self) -> dict[Doing, float]:
        """Up to now."""
        self.enter(self._doing)
        return dict(self._seconds)


class ClockIn(pl.Callback):
    """The first of the callbacks: a batch is there, a step is over."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_start(self, *_: Any) -> None:
        self.clock.enter(Doing.STEP)

    def on_train_batch_end(self, *_: Any) -> None:
        self.clock.enter(Doing.OTHER)

    def on_validation_start(self, *_: Any) -> None:
        self.clock.enter(Doing.EVALUATE)

    def on_train_end(self, *_: Any) -> None:
        self.clock.enter(Doing.OTHER)


class ClockOut(pl.Callback):
    """The last of the callbacks: what comes now is waiting for the next batch."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_start(self, *_: Any) -> None:
        self.clock.enter(Doing.DATA)

    def on_train_batch_end(self, *_: Any) -> None:
        self.clock.enter(Doing.DATA)

    def on_validation_end(self, *_: Any) -> None:
        self.clock.enter(Doing.DATA)
