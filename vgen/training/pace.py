"""Which rank holds the others up, and how long ranks wait for data."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from vgen.training.clock import Clock, Doing


@dataclass(frozen=True, slots=True)
class RankTimes:
    """Of the steps of one log interval, a value for each rank: seconds of waiting for data, of work of its
    own, and of all of it."""

    waiting: Tensor
    working: Tensor
    passed: Tensor

    def figures(self) -> dict[str, float]:
        """The shares of the steps that ranks wait for data, on average and at most; of several ranks also
        the slowest one, its own time over the median rank's, and which one waits most."""
        waits = self.waiting / self.passed
        found = {"speed/data_wait": float(waits.mean())}
        if len(waits) == 1:
            return found
        own = self.waiting + self.working
        return found | {
            "speed/data_wait_most": float(waits.max()),
            "speed/data_wait_rank": float(waits.argmax()),
            "speed/slowest_over_median": float(own.max() / own.quantile(0.5)),
            "speed/slowest_rank": float(own.argmax()),
        }


class Pace(pl.Callback):
    """Logs every ``every`` steps what :class:`RankTimes` says, after one gathering of three numbers.

    A rank's own time is what passes until the next collective: waiting for data, and forward. From then on
    ranks wait for each other, so that all take as long as the slowest. On a GPU forward is timed there, by
    events. It stands behind what saves at the start of a batch, which is no forward.
    """

    def __init__(self, clock: Clock, every: int) -> None:
        self.clock, self.every = clock, every
        self._seen = -1
        self._forward = self._began = 0.0
        self._since = (0.0, 0.0)
        self._events: list[tuple[Any, Any]] = []

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._seen = trainer.global_step
        module.forward_ended = self._forward_ends
        self._restart()

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._began = time.perf_counter()
        if trainer.strategy.root_device.type == "cuda":
            self._events.append((_event(), torch.cuda.Event(enable_timing=True)))

    def _forward_ends(self) -> None:
        if self._events:
            self._events[-1][1].record()
        else:
            self._forward += time.perf_counter() - self._began

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        step = trainer.global_step
        if step == self._seen:
            return  # accumulating
        self._seen = step
        if step % self.every == 0:
            figures = RankTimes(*self._gathered(trainer)).figures()
            module.log_dict(figures, batch_size=1)
            self._restart()

    def _gathered(self, trainer: pl.Trainer) -> Tensor:
        """3 x ranks."""
        if self._events:
            self._events[-1][1].synchronize()
            self._forward = sum(begin.elapsed_time(end) for begin, end in self._events) / 1000
        waited, passed = (now - since for now, since in zip(self._spent(), self._since, strict=True))
        mine = torch.tensor([waited, self._forward, passed], device=trainer.strategy.root_device)
        everyone = mine[None] if trainer.world_size == 1 else trainer.strategy.all_gather(mine)
        return everyone.T.cpu()

    def _restart(self) -> None:
        self._events.clear()
        self._forward, self._since = 0.0, self._spent()

    def _spent(self) -> tuple[float, float]:
        """Seconds of waiting for data, and of all that belongs to steps: no saving, evaluating, drawing."""
        seconds = self.clock.seconds()
        return seconds[Doing.DATA], sum(seconds[one] for one in (Doing.DATA, Doing.STEP, Doing.OTHER))


def _event() -> Any:
    begin = torch.cuda.Event(enable_timing=True)
    begin.record()
    return begin
