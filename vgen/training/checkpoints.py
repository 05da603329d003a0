"""Checkpoints: written whole or not at all, read as data only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from vgen.data.files import is_disks_fault


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write beside, fsync, rename; load with ``weights_only``, so that a foreign file cannot execute code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None
    ) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            disk = _disks_fault(error)
            if disk is None:
                raise
            raise OSError(disk.errno, disk.strerror, str(path)) from error

    def load_checkpoint(
        self, path: str | os.PathLike, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)


def _disks_fault(error: BaseException | None) -> OSError | None:
    """What the disk said, where torch reports a RuntimeError of its own after it."""
    while error is not None and not is_disks_fault(error):
        error = error.__cause__ or error.__context__
    return error if isinstance(error, OSError) else None


def remove_torn(folder: Path) -> None:
    """What a killed process left of a checkpoint that it was writing."""
    for path in folder.glob(".*.ckpt.*.tmp"):
        path.unlink(missing_ok=True)


class KeepLast(pl.Callback):
    """A checkpoint every ``every_steps`` and one at the end of training; the last ``num_kept`` stay.

    Lightning's own puts the save of a run's last step off to a validation that may never come.
    """

    def __init__(self, folder: Path, every_steps: int, num_kept: int) -> None:
        self.folder, self.every_steps, self.num_kept, self._done = folder, every_steps, num_kept, -1

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._done = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if trainer.global_step % self.every_steps == 0:
            self._save(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self._save(trainer, module)

    def _save(self, trainer: pl.Trainer, module: Any) -> None:
        step = trainer.global_step
        if step == self._done:  # of several batches to a step, the first that ends after it
            return
        refuse_diverged(module.learning, f"at step {step}")
        self._done = step
        trainer.save_checkpoint(self.folder / f"step-{step:07d}.ckpt")
        for former in sorted(self.folder.glob("step-*.ckpt"))[: -self.num_kept]:
            trainer.strategy.remove_checkpoint(former)


class KeepBest(ModelCheckpoint):
    """``best.ckpt``, the one with the lowest held-out loss."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor="val/loss",
            mode="min",
            save_top_k=1,
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What a resumed run has to beat is in ``best.ckpt``: the checkpoint that it goes on from was written
        before its own validation."""
        best = Path(self.dirpath or "") / "best.ckpt"
        kept = (
            torch.load(best, map_location="cpu", weights_only=True)["callbacks"].get(self.state_key)
            if best.is_file()
            else None
        )
        super().load_state_dict(kept or state_dict)


def refuse_diverged(learning: Mapping[str, Tensor], when: str) -> None:
    """Raise ValueError where a learning parameter is not finite, before it is written anywhere."""
    broken = [name for name, value in learning.items() if not torch.isfinite(value).all()]
    if broken:
        raise ValueError(
            f"training diverged: {len(broken)} of {len(learning)} learning tensors are not finite {when} "
            f"(first: {broken[0]}); "
            "nothing of it was written: go on from an earlier checkpoint, where there is one, or start again "
            "with a lower optim.lr or with optim.grad_clip"
        )


def rewind(checkpoint: dict[str, Any], num_batches: int) -> None:
    """Set Lightning's counters in ``checkpoint`` to the end of batch ``num_batches`` in one long epoch, as a
    save within a run leaves them.

    They come in other states where the save was the last, or where an earlier part of the run had other
    batches to a step; and a loader that stands at the right sample is left too early or read twice by a loop
    that believes to stand elsewhere.
    """
    fit = checkpoint["loops"]["fit_loop"]
    batches = fit["epoch_loop.batch_progress"]
    for part in ("total", "current"):
        batches[part] |= {
            "ready": num_batches,
            "started": num_batches,
            "processed": num_batches,
            "completed": num_batches - 1,
        }
        fit["epoch_progress"][part] |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    batches["is_last_batch"] = False
    fit["epoch_loop.state_dict"]["_batches_that_stepped"] = checkpoint["global_step"] - 1


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
