"""DeepSpeed through Lightning, where Lightning's strategy falls short: CPUs, whole checkpoints, the scheduler
of a resumed run."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import DeepSpeedStrategy

FACTS = "vgen.json"


class ZeroStrategy(DeepSpeedStrategy):
    """ZeRO ``stage`` 2 or 3, over NCCL on GPUs and gloo on CPUs (for tests and for trying a configuration
    out).

    A checkpoint is a folder that appears under its name only when every rank has written its part. DeepSpeed
    unpickles it: resume only runs of your own. It fits the number of processes and the stage it was written
    with.
    """

    def __init__(self, stage: int, on_gpu: bool, batch_size: int, grad_clip: float) -> None:
        super().__init__(
            stage=stage,
            exclude_frozen_parameters=True,
            logging_batch_size_per_gpu=batch_size,
            process_group_backend="nccl" if on_gpu else "gloo",
        )
        assert self.config is not None  # Lightning writes one where none is given
        self.config["zero_allow_untested_optimizer"] = True
        self.config["gradient_clipping"] = grad_clip  # Lightning hands clipping to the engine

    @property
    def on_cpu(self) -> bool:
        return isinstance(self.accelerator, CPUAccelerator)

    # -- CPUs, which Lightning refuses and DeepSpeed does not ------------------------------------------------
    def setup_environment(self) -> None:
        if self.on_cpu:
            super(DeepSpeedStrategy, self).setup_environment()
        else:
            super().setup_environment()

    def setup_distributed(self) -> None:
        if not self.on_cpu:
            super().setup_distributed()
            return
        import deepspeed.ops
        from lightning_fabric.utilities.seed import reset_seed

        # Else g++ runs for some 100 s to build a shared-memory all-reduce that only inference calls.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def _setup_model_and_optimizer(
        self, model: Any, optimizer: Any, lr_scheduler: Any = None
    ) -> tuple[Any, Any]:
        if not self.on_cpu:
            return super()._setup_model_and_optimizer(model, optimizer, lr_scheduler)
        import deepspeed

        engine, optimiser, _, _ = deepspeed.initialize(
            args=argparse.Namespace(device_rank=self.local_rank),
            config=self.config,
            model=model,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            model_parameters=[p for p in model.parameters() if p.requires_grad],
            dist_init_required=False,
        )
        return engine, optimiser

    # -- checkpoints -----------------------------------------------------------------------------------------
    @property
    def stage(self) -> int:
        assert self.config is not None
        return self.config["zero_optimization"]["stage"]

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | os.PathLike, storage_options: Any = None
    ) -> None:
        path = Path(self.broadcast(str(filepath)))
        temporary, former = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.former")
        if self.is_global_zero:
            for leftover in (temporary, former):
                shutil.rmtree(leftover, ignore_errors=True)
        self.barrier()
        super().save_checkpoint(checkpoint, temporary, storage_options)
        self.barrier()
        if self.is_global_zero:
            (temporary / FACTS).write_text(
                json.dumps({"stage": self.stage, "num_processes": self.world_size})
            )
            if path.exists():
                os.replace(path, former)
            os.replace(temporary, path)
            shutil.rmtree(former, ignore_errors=True)
        self.barrier()

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        facts_file = Path(checkpoint_path) / FACTS
        if not facts_file.is_file():
            raise ValueError(
                f"checkpoint {checkpoint_path} is not one that vgen's DeepSpeed runs write (no {FACTS} in "
                "it); start a new run.name"
            )
        facts = json.loads(facts_file.read_text())
        here = {"stage": self.stage, "num_processes": self.world_size}
        if facts != here:
            raise ValueError(
                f"checkpoint {checkpoint_path} was written by {facts['num_processes']} processes with "
                f"ZeRO-{facts['stage']}, "
                f"this run has {here['num_processes']} with ZeRO-{here['stage']}; "
                "resume with the same trainer, or start a new run.name"
            )
        return super().load_checkpoint(checkpoint_path, weights_only)
