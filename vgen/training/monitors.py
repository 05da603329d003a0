"""What is watched while training: speed, memory, gradient norm, and whether the model uses time at all."""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch

from vgen.data.batch import Batch
from vgen.diffusion.draws import Draws
from vgen.methods._objectives import Denoising, encoded_batch
from vgen.methods._video_model import VideoModel
from vgen.training.peaks import peak_memory_gb


class Throughput(pl.Callback):
    """Clips and frames per second over the last ``every`` steps, peak memory, learning rate."""

    def __init__(self, every: int) -> None:
        self.every, self._since, self._clips, self._frames = every, 0.0, 0, 0

    def on_train_start(self, *_: Any) -> None:
        self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        data = batch.latents if batch.latents is not None else batch.video
        assert data is not None  # a batch holds pixels or latents
        self._clips += len(batch) * trainer.world_size
        self._frames += data.shape[0] * data.shape[1] * trainer.world_size
        if (batch_idx + 1) % self.every == 0:
            seconds = time.perf_counter() - self._since
            rates = {
                "speed/clips_per_s": self._clips / seconds,
                "speed/frames_per_s": self._frames / seconds,
                "speed/peak_memory_gb": peak_memory_gb(),
            }
            module.log_dict(
                rates | {"optim/lr": trainer.optimizers[0].param_groups[0]["lr"]}, batch_size=len(batch)
            )
            self._since, self._clips, self._frames = time.perf_counter(), 0, 0


class GradientNorm(pl.Callback):
    """The norm of all learning gradients before clipping."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, module: Any, optimizer: torch.optim.Optimizer
    ) -> None:
        if (trainer.global_step + 1) % self.every == 0:  # of the step whose figures are written next
            grads = [p.grad for p in module.learning.values() if p.grad is not None]
            if grads:
                module.log(
                    "optim/grad_norm", torch.stack(torch._foreach_norm(grads)).norm().float(), batch_size=1
                )

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        engine = getattr(
            trainer.strategy, "deepspeed_engine", None
        )  # it has moved the gradients into parts of its own, and knows the norm
        norm = engine.get_global_grad_norm() if engine is not None else None
        if norm is not None and trainer.global_step % self.every == 0:
            module.log("optim/grad_norm", float(norm), batch_size=1)


class TimeUse(pl.Callback):
    """Asks whether the model uses time. On the held-out clips: the loss gap when frames of the noisy clip are shuffled, and
    the loss by timestep quarter.

    The shuffle permutes clip and target alike, so that a model which ignores time has a gap of zero;
    per-frame content is the same.
    """  # noqa: E501

    QUARTERS = 4

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        objective = module.objective
        if not isinstance(objective, Denoising):
            return
        assert trainer.val_dataloaders is not None  # validation has just run over them
        batches = list(islice(trainer.val_dataloaders, 4))
        with (
            trainer.precision_plugin.forward_context()
        ):  # a hook is not a step: Lightning casts nothing here, and CUDA mixes no dtypes
            figures = measure_time_use(module, batches, objective)
        module.log_dict(figures, sync_dist=True, batch_size=1)


@torch.no_grad()
def measure_time_use(module: Any, batches: list[Batch], objective: Denoising) -> dict[str, float]:
    """``time/shuffle_gap`` (relative), ``time/loss_q1`` (least noise) to ``time/loss_q4`` (most); each clip
    meets every quarter once."""
    video_model: VideoModel = module.video_model
    device = video_model.device
    quarters: list[list[float]] = [[] for _ in range(TimeUse.QUARTERS)]
    plain, shuffled = [], []
    for batch in batches:
        latents, encoded = encoded_batch(video_model, batch)
        draws = Draws(module.seed, batch.keys)
        share = video_model.schedule.num_timesteps // TimeUse.QUARTERS
        noise = draws.normal("time_use", latents)
        chance = torch.Generator().manual_seed(0)
        order = torch.randperm(latents.shape[1], generator=chance, device="cpu").to(device)
        for quarter in range(TimeUse.QUARTERS):
            t = draws.integers(f"quarter{quarter}", share, device) + quarter * share
            errors = objective.errors(video_model, encoded, latents, t, noise)
            quarters[quarter] += errors.tolist()
            if latents.shape[1] > 1:
                plain += errors.tolist()
                mixed = objective.errors(video_model, encoded, latents[:, order], t, noise[:, order])
                shuffled += mixed.tolist()
    out = {f"time/loss_q{i + 1}": sum(values) / len(values) for i, values in enumerate(quarters)}
    if plain:
        out["time/shuffle_gap"] = sum(shuffled) / sum(plain) - 1
    return out
