"""Sample clips while training: a few fixed prompts and seeds, to disk and to W&B, with the averaged
weights."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import WandbLogger

from vgen.data.clip_files import enlarged, to_uint8, write_grid, write_mp4
from vgen.methods import VideoModel
from vgen.methods._sampling import Prompt, Sampling, SamplingOverrides, generate, num_steps
from vgen.spec import field, spec
from vgen.training.clock import Clock, Doing
from vgen.training.ema import Ema
from vgen.training.partitions import is_partitioned
from vgen.training.progress import TimeLeft

log = logging.getLogger(__name__)


@spec
class SampleSettings:
    """``prompts`` empty means no samples; each is drawn with its index as seed."""

    prompts: list[str] = field(default_factory=list)
    every_steps: int = 500
    sampling: SamplingOverrides = field(default_factory=SamplingOverrides)

    def __post_init__(self) -> None:
        if self.every_steps < 1:
            raise ValueError(
                f"callbacks.every_steps must be at least 1, got {self.every_steps}; callbacks=none draws no "
                "samples"
            )


def refuse_wordless(video_model: VideoModel) -> None:
    """Raises ValueError where samples are asked for by prompts, and what learns listens to no words."""
    if not video_model.hears_words():
        raise ValueError(
            "callbacks.prompts draws samples from words, and this method listens to "
            f"{', '.join(video_model.conditions)} alone; set callbacks=none, and draw with vgen generate"
        )


class SampleClips(pl.Callback):
    """Draws with ``sampling``: by default the frames and the size of the training, where motion is learnt.
    Clips are files of their own, stills one grid."""

    def __init__(
        self, settings: SampleSettings, folder: Path, ema: Ema | None, sampling: Sampling, clock: Clock
    ) -> None:
        self.settings, self.folder, self.ema, self.sampling = settings, folder, ema, sampling
        self.clock = clock
        self._done = -1

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._done = trainer.global_step  # what is accumulated for the first step ends batches before it

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        step = trainer.global_step
        if step % self.settings.every_steps or step == self._done:
            return
        if not trainer.is_global_zero and not any(is_partitioned(p) for p in module.parameters()):
            return  # where weights are in parts, drawing gathers them: every rank has to draw, one writes
        self._done = step
        averaged = nullcontext() if self.ema is None else self.ema.weights(module)
        with self.clock.during(Doing.DRAW), averaged:
            self._draw(trainer, module, step)

    def _draw(self, trainer: pl.Trainer, module: Any, step: int) -> None:
        total = num_steps(module.video_model, self.sampling)
        told = TimeLeft(f"samples of step {step}", total, speaks=trainer.is_global_zero)
        prompts = [Prompt(text, seed=i) for i, text in enumerate(self.settings.prompts)]
        with trainer.precision_plugin.forward_context():
            clips = generate(module.video_model, prompts, self.sampling, told.step)
        if not trainer.is_global_zero:
            return
        if not clips.isfinite().all():
            log.warning("step %d: the samples hold values that are not finite, so none is written", step)
            return
        if clips.shape[1] == 1:
            path = write_grid(self.folder / f"step-{step:07d}.png", to_uint8(clips[:, 0]), columns=4)
            for logger in _wandb(trainer):
                logger.log_image("samples", [str(path)], step, caption=["; ".join(self.settings.prompts)])
            return
        paths = [
            write_mp4(self.folder / f"step-{step:07d}-{i}.mp4", enlarged(to_uint8(clip), 256))
            for i, clip in enumerate(clips)
        ]
        for logger in _wandb(trainer):
            captions = list(self.settings.prompts)
            logger.log_video(
                "samples",
                [str(p) for p in paths],
                step=step,
                caption=captions,
                format=["mp4"] * len(paths),
            )


def _wandb(trainer: pl.Trainer) -> list[WandbLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
