"""Checkpoints: written whole or not at all, read as data only."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write beside, fsync, rename; load with ``weights_only``, so that a foreign file cannot execute code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def load_checkpoint(self, path: str | os.PathLike, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)


def keepers(folder: Path, every_steps: int, keep_last: int, has_validation: bool) -> list[ModelCheckpoint]:
    """The last ``keep_last`` checkpoints by step and, where held-out loss is computed, the best one."""
    last = ModelCheckpoint(
        dirpath=folder, filename="step-{step:07d}", auto_insert_metric_name=False, every_n_train_steps=every_steps,
        save_top_k=keep_last, monitor="step", mode="max", save_on_train_epoch_end=False, enable_version_counter=False,
    )
    if not has_validation:
        return [last]
    best = ModelCheckpoint(
        dirpath=folder, filename="best", monitor="val/loss", mode="min", save_top_k=1, enable_version_counter=False,
        save_on_train_epoch_end=False,
    )
    return [last, best]


def latest(folder: Path) -> Path | None:
    """The newest checkpoint by step that is readable, or None."""
    candidates = sorted(folder.glob("step-*.ckpt"), reverse=True)
    for path in candidates:
        if path.is_dir() or _readable(path):
            return path
    return None


def _readable(path: Path) -> bool:
    """A torch file ends in a zip directory; a torn one does not open."""
    import zipfile

    return zipfile.is_zipfile(path)
