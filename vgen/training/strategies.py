"""How a run is spread over devices: typed settings in, a Lightning Trainer out."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from vgen.backbones.cpu import BF16_COSTS, HAS_BF16
from vgen.spec import Choice, spec
from vgen.training import ranks
from vgen.training.optimisation import Optimisation, Optimiser
from vgen.training.zero import ZeroStrategy

log = logging.getLogger(__name__)


class Accelerator(Choice):
    AUTO = "auto"
    CPU = "cpu"
    GPU = "gpu"


class Spread(Choice):
    SINGLE = "single"
    DDP = "ddp"
    ZERO1 = "deepspeed_zero1"
    ZERO2 = "deepspeed_zero2"
    ZERO3 = "deepspeed_zero3"


STAGES = {Spread.ZERO1: 1, Spread.ZERO2: 2, Spread.ZERO3: 3}
"""Of DeepSpeed's ZeRO: moments, gradients too, weights too in parts."""


class Precision(Choice):
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


LIGHTNING_PRECISION: dict[Precision, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    Precision.FP32: "32-true",
    Precision.BF16: "bf16-mixed",
    Precision.FP16: "16-mixed",
}
FROZEN_DTYPE = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


@spec
class TrainerSettings:
    """``accumulate`` batches make one optimiser step; ``devices`` are processes per node.

    A training step that takes longer than ``hang_seconds`` (or three times the 99th percentile of those
    before it, where that is more) ends the run, and so does any other phase after ``phase_seconds``. Up to
    ``max_skipped_steps`` steps in a row may be not finite.
    """

    accelerator: Accelerator = Accelerator.AUTO
    strategy: Spread = Spread.SINGLE
    devices: int = 1
    num_nodes: int = 1
    precision: Precision = Precision.FP32
    accumulate: int = 1
    max_steps: int = 1000
    val_every_steps: int = 200
    checkpoint_every_steps: int = 200
    keep_last: int = 2
    log_every_steps: int = 10
    gradient_checkpointing: bool = False
    compile: bool = False
    preflight: bool = True
    num_threads: int = 0
    max_skipped_steps: int = 10
    hang_seconds: float = 120.0
    phase_seconds: float = 3600.0

    def __post_init__(self) -> None:
        counts = (
            "devices",
            "num_nodes",
            "accumulate",
            "max_steps",
            "val_every_steps",
            "checkpoint_every_steps",
            "keep_last",
            "log_every_steps",
        )
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("hang_seconds", "phase_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"trainer.{name} must be positive, got {getattr(self, name)}")
        if self.max_skipped_steps < 0:
            raise ValueError(
                f"trainer.max_skipped_steps must not be negative, got {self.max_skipped_steps}; 0 skips none"
            )
        if self.num_threads < 0:
            raise ValueError(
                f"trainer.num_threads must not be negative, got {self.num_threads}; 0 leaves the choice to "
                "torch"
            )
        if self.strategy is Spread.SINGLE and self.devices * self.num_nodes > 1:
            raise ValueError(
                f"trainer.strategy=single runs one process, got devices={self.devices} "
                f"num_nodes={self.num_nodes}; "
                "use trainer=ddp or trainer=deepspeed_zero2"
            )

    @property
    def figures_every_steps(self) -> int:
        """``log_every_steps``, and once at the end of a run that is shorter."""
        return min(self.log_every_steps, self.max_steps)

    @property
    def world_size(self) -> int:
        return self.devices * self.num_nodes

    @property
    def sharded(self) -> bool:
        """Does DeepSpeed hold optimiser states, perhaps gradients and weights in parts, one per process?"""
        return self.strategy in STAGES

    def on_gpu(self) -> bool:
        if self.accelerator is Accelerator.GPU and not torch.cuda.is_available():
            raise ValueError(
                f"trainer.accelerator=gpu but torch {torch.__version__} sees no CUDA device; "
                "use trainer=cpu, or 'vgen doctor' says what is missing"
            )
        return self.accelerator is Accelerator.GPU or (
            self.accelerator is Accelerator.AUTO and torch.cuda.is_available()
        )


def refuse_unfit(
    settings: TrainerSettings,
    optimisation: Optimisation,
    writes_image_model: bool,
    adversaries: Collection[str] = (),
) -> None:
    """What cannot train together: half precision on a CPU, whose autocast lacks it here and there, or with
    an optimiser that scales nothing; weights in parts, and an optimiser, an image model or an adversary that
    needs them whole.
    """
    if settings.precision is Precision.FP16 and not settings.on_gpu():
        instead = "trainer.precision=bf16, or fp32, on a CPU" if HAS_BF16 else "fp32 on this CPU"
        raise ValueError(f"trainer.precision=fp16 needs a GPU; use {instead}")
    if settings.precision is Precision.FP16 and optimisation.kind is Optimiser.MUON:
        raise ValueError(
            "optim.kind=muon does not know the scaled gradients of trainer.precision=fp16; use bf16, or "
            "optim.kind=adamw"
        )
    if settings.sharded and optimisation.kind is Optimiser.MUON:
        raise ValueError(
            f"optim.kind=muon needs whole weights, which trainer.strategy={settings.strategy.value} takes "
            "apart; "
            "use trainer=ddp, or optim.kind=adamw"
        )
    if settings.strategy is Spread.ZERO3 and writes_image_model:
        raise ValueError(
            "this method writes the image model whole, which trainer.strategy=deepspeed_zero3 leaves in "
            "parts; "
            "use trainer=deepspeed_zero2 or trainer=ddp"
        )
    if settings.strategy is Spread.ZERO3 and adversaries:
        raise ValueError(
            f"this method has an adversary, {', '.join(adversaries)}, that judges with whole weights, which "
            "trainer.strategy=deepspeed_zero3 takes apart; use trainer=deepspeed_zero2 or trainer=ddp"
        )


def warn_of_slow_bf16(settings: TrainerSettings) -> None:
    if settings.precision is Precision.BF16 and not settings.on_gpu() and not HAS_BF16:
        log.warning("trainer.precision=bf16: %s; use trainer.precision=fp32", BF16_COSTS)


def refuse_missing_gpus(settings: TrainerSettings) -> None:
    if settings.on_gpu() and settings.devices > (have := torch.cuda.device_count()):
        raise ValueError(
            f"trainer.devices={settings.devices} processes need a GPU each and this machine has {have}; "
            f"set trainer.devices={have}, or trainer.accelerator=cpu"
        )


def strategy(settings: TrainerSettings, batch_size: int, grad_clip: float) -> Strategy:
    gpu = settings.on_gpu()
    match settings.strategy:
        case Spread.SINGLE:
            return SingleDeviceStrategy(device="cuda:0" if gpu else "cpu")
        case Spread.DDP:
            # No broadcast of buffers: they are constant tables, and it would be a collective in every
            # validation batch.
            return DDPStrategy(
                process_group_backend="nccl" if gpu else "gloo",
                gradient_as_bucket_view=True,
                broadcast_buffers=False,
            )
        case Spread.ZERO1 | Spread.ZERO2 | Spread.ZERO3:
            if not gpu:
                os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when deepspeed is imported
            try:
                import deepspeed  # noqa: F401
            except ImportError as error:
                raise ValueError(
                    f"trainer.strategy={settings.strategy.value} needs deepspeed, which does not import "
                    f"({error}); "
                    "'vgen doctor' says how to get it, trainer=ddp works without"
                ) from error
            return ZeroStrategy(STAGES[settings.strategy], gpu, batch_size, grad_clip)


def trainer(
    settings: TrainerSettings,
    batch_size: int,
    grad_clip: float,
    callbacks: list[pl.Callback],
    loggers: list,
    folder: Path,
) -> pl.Trainer:
    """A Lightning Trainer that stops at ``max_steps`` and never splits data itself: the loaders are already
    per rank."""
    place = ranks.environment()
    return pl.Trainer(
        accelerator="gpu" if settings.on_gpu() else "cpu",
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=strategy(settings, batch_size, grad_clip),
        precision=LIGHTNING_PRECISION[settings.precision],
        accumulate_grad_batches=settings.accumulate,
        max_steps=settings.max_steps,
        val_check_interval=settings.val_every_steps * settings.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=None if settings.sharded else grad_clip or None,
        callbacks=callbacks,
        logger=loggers,
        log_every_n_steps=settings.figures_every_steps,
        default_root_dir=folder,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_checkpointing=False,  # ours are callbacks that write them for every strategy alike
        plugins=[place] if place else None,
        enable_progress_bar=any(isinstance(c, pl.callbacks.ProgressBar) for c in callbacks),
    )
