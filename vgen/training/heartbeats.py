"""What Lightning's loop tells the watchdog: where steps end, and what is no step."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch
import torch.distributed as dist

from vgen.backbones.conditioning import Prepared
from vgen.data.batch import Batch, Encoder
from vgen.training.exits import DEFECT, REFUSED
from vgen.training.memory import is_out_of_memory
from vgen.training.saving import last_sound
from vgen.training.watchdog import Peer, Reason, Watchdog

_GONE = re.compile(r"[Cc]onnection (closed|reset)|Broken pipe|remote process exited|Socket closed")
_WORKER = "DataLoader worker"
TOLD_WITHIN_SECONDS = 2.0
"""A rank that ends for a reason says so before its connections close."""


class StepEnds(pl.Callback):
    """The first of the callbacks: what the others do after a step, as drawing and saving, is no step."""

    def __init__(self, watchdog: Watchdog) -> None:
        self.watchdog = watchdog

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.watchdog.enter(f"saving or drawing after step {trainer.global_step}")

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.watchdog.enter(f"evaluating after step {trainer.global_step}")

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.watchdog.enter("writing what was learnt")


class StepBegins(pl.Callback):
    """The last of the callbacks. The batch after anything but a step is no usual step: other ranks wait in it
    for the one that drew or saved; nor is the first one, in which workers start and kernels are built."""

    def __init__(self, watchdog: Watchdog, is_busy: Callable[[int], bool]) -> None:
        self.watchdog, self.is_busy = watchdog, is_busy
        self._began, self._is_usual = 0.0, False
        self._keys: list[tuple[str, int]] = []

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.watchdog.peers = _everyone(trainer.world_size)
        self.watchdog.children = getattr(trainer.strategy.launcher, "procs", [])
        self.watchdog.enter(f"beginning step {trainer.global_step + 1}, the first one")

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Batch, *_: Any) -> None:
        self._keys = list(batch.keys)
        self.watchdog.name(f"in step {trainer.global_step + 1}")

    def on_before_zero_grad(self, *_: Any) -> None:
        if self.watchdog.ending:
            _wait_for_the_end()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self._is_usual:
            self.watchdog.count_step(time.monotonic() - self._began)
        step = trainer.global_step
        self._began, self._is_usual = time.monotonic(), not self.is_busy(step)
        self.watchdog.enter(f"waiting for the data of step {step + 1}", is_step=self._is_usual)

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._is_usual = False
        self.watchdog.enter(f"beginning step {trainer.global_step + 1} after an evaluation")

    def on_exception(self, trainer: pl.Trainer, module: Any, exception: BaseException) -> None:
        """What ends this rank alone ends all, in one sentence of the rank that knows the reason."""
        if self.watchdog.ending:
            _wait_for_the_end()
        if _WORKER in str(exception):
            self._tell_of_worker(trainer, str(exception))
        if trainer.world_size == 1:
            return
        if _is_of_connection(exception):
            self._leave_the_lost(trainer)
        elif isinstance(exception, Exception):
            is_refused = isinstance(exception, ValueError) or is_out_of_memory(exception)
            self.watchdog.tell_fault(REFUSED if is_refused else DEFECT)

    def _leave_the_lost(self, trainer: pl.Trainer) -> NoReturn:
        reason = self.watchdog.reason(TOLD_WITHIN_SECONDS)
        if reason is Reason.FAULT:
            self.watchdog.leave_by_fault()
        if reason is Reason.UNKNOWN:
            self.watchdog.say(f"rank {trainer.global_rank} lost another rank{_goes_on(trainer)}")
        self.watchdog.follow()

    def _tell_of_worker(self, trainer: pl.Trainer, why: str) -> None:
        for logger in trainer.loggers:
            logger.save()
        ids = ", ".join(str(sample) for sample, _ in self._keys)
        died = " ".join(why.split()).rstrip(".")
        self.watchdog.say(
            f"{died}, a worker of rank {trainer.global_rank} which read ahead of samples {ids}: memory may "
            f"not suffice, lower data.num_workers or data.batch_size{_goes_on(trainer)}"
        )
        self.watchdog.go()


def _goes_on(trainer: pl.Trainer) -> str:
    kept = last_sound(trainer)
    if kept is None:
        return f"; stopped in step {trainer.global_step + 1}, no checkpoint was due yet"
    return f"; stopped in step {trainer.global_step + 1}, run.resume=auto goes on from {kept.folder.name}"


class Beating:
    """An encoder whose every group of clips counts as a phase of its own: a corpus may take days."""

    def __init__(self, encoder: Encoder, watchdog: Watchdog) -> None:
        self.encoder, self.watchdog = encoder, watchdog

    def fingerprint(self) -> str:
        return self.encoder.fingerprint()

    def prepare(self, fields: dict[str, Any], device: torch.device) -> Prepared:
        self.watchdog.enter("encoding clips")
        return self.encoder.prepare(fields, device)


def _everyone(world_size: int) -> list[Peer]:
    """Every rank's process, by rank."""
    if world_size == 1:
        return [Peer.here()]
    found: list[Peer | None] = [None] * world_size
    dist.all_gather_object(found, Peer.here())
    return [peer for peer in found if peer is not None]


def _is_of_connection(error: BaseException) -> bool:
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and bool(_GONE.search(str(error)))


def _wait_for_the_end() -> NoReturn:
    """The watchdog's thread ends the process."""
    while True:
        time.sleep(1)
