"""What stops a run early asks of the keepers of checkpoints: save now, save nothing now, where the last sound
one is, and what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from vgen.training.checkpoints import KeepLast, latest
from vgen.training.ema import Ema


def save_now(trainer: pl.Trainer, module: Any) -> None:
    """A checkpoint of this step, on all ranks together, unless there is one."""
    _keeper(trainer)._save(trainer, module)


def save_nothing_now(trainer: pl.Trainer) -> None:
    """No checkpoint of this step, though one is due."""
    _keeper(trainer)._done = trainer.global_step


def last_sound(trainer: pl.Trainer) -> Path | None:
    """The checkpoint that run.resume=auto would go on from."""
    return latest(_keeper(trainer).folder)


@torch.no_grad()
def go_back(trainer: pl.Trainer, module: Any, checkpoint: Path) -> None:
    """Weights, moments and averages of a checkpoint, at the step and the rate at which the run stands. Every
    rank reads it."""
    held = trainer.strategy.load_checkpoint(checkpoint, weights_only=True)
    rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
    for name, parameter in module.learning.items():
        parameter.copy_(held["state_dict"][f"parts.{name}"])
    trainer.strategy.load_optimizer_state_dict(held)
    for group, rate in zip(trainer.optimizers[0].param_groups, rates, strict=True):
        group["lr"] = rate
    for callback in trainer.callbacks:
        if isinstance(callback, Ema):
            callback.load_state_dict(held["callbacks"][callback.state_key])
            callback.on_train_start(trainer, module)


def _keeper(trainer: pl.Trainer) -> KeepLast:
    return next(callback for callback in trainer.callbacks if isinstance(callback, KeepLast))
