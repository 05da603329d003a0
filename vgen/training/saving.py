"""What stops a run early asks of the keepers of checkpoints: save now, save nothing now, where is the last
sound one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from vgen.training.checkpoints import KeepLast, latest


def save_now(trainer: pl.Trainer, module: Any) -> None:
    """A checkpoint of this step, on all ranks together, unless there is one."""
    _keeper(trainer).save(trainer, module)


def last_sound(trainer: pl.Trainer) -> Path | None:
    """The checkpoint that run.resume=auto would go on from."""
    found = latest(_keeper(trainer).folder)
    return None if found is None else found.folder


def _keeper(trainer: pl.Trainer) -> KeepLast:
    return next(callback for callback in trainer.callbacks if isinstance(callback, KeepLast))
