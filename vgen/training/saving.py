"""What stops a run early asks of the keepers of checkpoints: save now, save nothing now, where the last sound
one is, and what is in it."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from vgen.training.checkpoint_folder import Checkpoint
from vgen.training.checkpoints import KeepLast, latest, put_learnt
from vgen.training.ema import Ema


def save_now(trainer: pl.Trainer, module: Any) -> None:
    """A checkpoint of this step, on all ranks together, unless there is one."""
    _keeper(trainer).save(trainer, module)


def save_nothing_now(trainer: pl.Trainer) -> None:
    """No checkpoint of this step, though one is due."""
    _keeper(trainer).pass_over(trainer.global_step)


def last_sound(trainer: pl.Trainer) -> Checkpoint | None:
    """The checkpoint that run.resume=auto would go on from."""
    return latest(_keeper(trainer).folder)


def go_back(trainer: pl.Trainer, module: Any, found: Checkpoint) -> None:
    """Weights, moments and averages of a checkpoint, at the step and the rate at which the run stands. Every
    rank reads it."""
    ema = next((callback for callback in _callbacks(trainer) if isinstance(callback, Ema)), None)
    put_learnt(trainer, module, found, ema)
    if ema is not None:
        ema.on_train_start(trainer, module)


def _callbacks(trainer: Any) -> list[pl.Callback]:
    """Lightning sets them where a type checker does not look."""
    return trainer.callbacks


def _keeper(trainer: pl.Trainer) -> KeepLast:
    return next(callback for callback in _callbacks(trainer) if isinstance(callback, KeepLast))
