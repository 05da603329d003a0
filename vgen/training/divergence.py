"""Steps that are not finite are skipped; many of them take the run back to its last sound checkpoint,
once."""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from vgen.training.checkpoints import WENT_BACK
from vgen.training.saving import go_back, last_sound, save_nothing_now

log = logging.getLogger(__name__)

MOST_RETURNS = 1


class Divergence(pl.Callback):
    """Skips an optimiser step whose gradients are not finite, on all ranks alike: they have the same.

    Whether steps were skipped is read every ``every`` steps and where a checkpoint is due, since to read it
    makes a GPU wait. While steps are skipped nothing is saved. After more than ``most_skipped`` in a row the
    weights, moments and averages of the last sound checkpoint come back; the samples go on, so that it does
    not meet the same ones again. The second time, and where there is no checkpoint, the run stops with
    ValueError.

    Under fp16 the gradient scaler skips steps by itself, and DeepSpeed keeps the gradients: there the loss is
    looked at, and nothing but stopping is left under DeepSpeed. It stands before what saves.
    """

    def __init__(self, every: int, checkpoint_every: int, most_skipped: int) -> None:
        self.every, self.checkpoint_every, self.most_skipped = every, checkpoint_every, most_skipped
        self.num_returns = 0
        self._streak: Tensor | None = None  # of steps that were skipped, on the device
        self._seen = -1

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._seen = trainer.global_step
        self.num_returns = int(WENT_BACK in module.record)
        self._streak = torch.zeros((), device=trainer.strategy.root_device)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, module: Any, optimizer: torch.optim.Optimizer
    ) -> None:
        grads = [p.grad for p in module.learning.values() if p.grad is not None]
        if not grads or trainer.precision == "16-mixed":
            return
        norm = torch.stack(torch._foreach_norm(grads)).norm()
        is_bad = ~torch.isfinite(norm)
        self._count(is_bad)
        if optimizer.defaults.get("fused"):
            # as a gradient scaler tells a fused optimiser to do nothing
            optimizer.found_inf = is_bad.float()  # type: ignore[attr-defined]
        elif is_bad:
            optimizer.zero_grad(set_to_none=True)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        step = trainer.global_step
        if step == self._seen:
            return  # accumulating
        self._seen = step
        if _is_sharded(trainer) or trainer.precision == "16-mixed":
            self._count(~torch.isfinite(trainer.callback_metrics["train/loss"]))
        is_due = step % self.checkpoint_every == 0
        if step % self.every == 0 or is_due:
            self._look(trainer, module, is_due)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        if streak := self._read():
            raise ValueError(_diverged(trainer, streak))

    def _count(self, is_bad: Tensor) -> None:
        assert self._streak is not None  # training has begun
        self._streak = torch.where(is_bad.to(self._streak.device), self._streak + 1, 0)

    def _read(self) -> int:
        return 0 if self._streak is None else int(self._streak)

    def _look(self, trainer: pl.Trainer, module: Any, is_due: bool) -> None:
        streak = self._read()
        if not streak:
            return
        if streak > self.most_skipped:
            self._return(trainer, module, streak)
            return
        log.warning(
            "the last %d steps up to step %d are not finite and were skipped", streak, trainer.global_step
        )
        if is_due:
            save_nothing_now(trainer)

    def _return(self, trainer: pl.Trainer, module: Any, streak: int) -> None:
        sound = last_sound(trainer)
        if sound is None or self.num_returns >= MOST_RETURNS or _is_sharded(trainer):
            raise ValueError(_diverged(trainer, streak))
        go_back(trainer, module, sound)
        self.num_returns += 1
        self._streak = torch.zeros_like(self._streak) if self._streak is not None else None
        module.record[WENT_BACK] = {"at_step": trainer.global_step, "to": sound.folder.name}
        log.warning(
            "training diverged: %d steps up to step %d were not finite; the weights, moments and averages of "
            "%s are back, the samples go on; another time the run stops",
            streak,
            trainer.global_step,
            sound.folder.name,
        )


def _is_sharded(trainer: pl.Trainer) -> bool:
    return hasattr(trainer.strategy, "deepspeed_engine")


def _diverged(trainer: pl.Trainer, streak: int) -> str:
    loss = float(trainer.callback_metrics.get("train/loss", torch.tensor(float("nan"))))
    sound = last_sound(trainer)
    remedy = "with a lower optim.lr or with optim.grad_clip"
    if sound is None:
        rest = f"no checkpoint was due yet, so nothing of it is kept; start again {remedy}"
    else:
        rest = f"{sound.folder.name} is the last sound checkpoint; start a new run {remedy}"
    return (
        f"training diverged: the loss is {loss} at step {trainer.global_step} and {streak} steps in a row "
        f"were not finite; {rest}"
    )
