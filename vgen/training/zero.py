"""DeepSpeed through Lightning, where Lightning's strategy falls short: CPUs, and checkpoints that fit any
strategy."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import Tensor, nn

from vgen.formats.tensor_file import Entry
from vgen.training.moments import ADAM_KEYS, STEP, step_count
from vgen.training.partitions import is_partitioned, part_of, put_part, whole_shape


class ZeroStrategy(DeepSpeedStrategy):
    """ZeRO ``stage`` 1, 2 or 3, over NCCL on GPUs and gloo on CPUs (for tests and for trying a configuration
    out).

    DeepSpeed's own checkpoints, which it unpickles, are neither written nor read.
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

    def held(self) -> InParts:
        """What the engine holds of the learning parameters."""
        return InParts(self.deepspeed_engine.optimizer)


@dataclass(frozen=True)
class InParts:
    """Weights and moments that DeepSpeed keeps in parts, each whole for a moment. ``zero`` is its optimiser
    around ours; weights are its fp32 ones."""

    zero: Any

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.zero.optimizer

    def weight(self, parameter: nn.Parameter) -> Entry:
        from deepspeed.utils import safe_get_full_fp32_param

        return Entry(torch.float32, whole_shape(parameter), lambda: safe_get_full_fp32_param(parameter))

    def moments(self, parameter: nn.Parameter) -> dict[str, Entry]:
        if not self._have_stepped():
            return {}
        shape = whole_shape(parameter)
        return {key: Entry(torch.float32, shape, _fetch_moment(parameter, key)) for key in ADAM_KEYS}

    def steps(self, parameter: nn.Parameter) -> int:
        counts = [self.optimizer.state[flat][STEP] for flat in self._flats() if flat in self.optimizer.state]
        return int(max(counts, default=0))

    @torch.no_grad()
    def put_weight(self, parameter: nn.Parameter, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

        part = part_of(parameter, value)
        put_part(parameter, part)
        if is_partitioned(parameter):
            safe_set_local_fp32_param(parameter, part)
        else:
            safe_set_full_fp32_param(parameter, value)

    @torch.no_grad()
    def put_moments(self, parameter: nn.Parameter, moments: dict[str, Tensor], steps: int) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        self._make_room()
        for flat in self._flats():
            count = self.optimizer.state[flat][STEP]
            count.fill_(max(float(count), steps))
        for key, value in moments.items():
            if is_partitioned(parameter):
                safe_set_local_optimizer_state(parameter, part_of(parameter, value), key)
            else:
                safe_set_full_optimizer_state(parameter, value, key)

    def scale(self) -> dict[str, float] | None:
        """DeepSpeed is a step more patient after an overflow, from which it counts, than after a change of
        its own: -1 steps then. It forgives so many overflows before one halves the scale."""
        scaler = self.zero.loss_scaler
        if not scaler.dynamic:
            return None
        good = scaler.cur_iter - scaler.last_overflow_iter - 1
        since = (good - 1) % scaler.scale_window if good else -1
        return {"scale": scaler.cur_scale, "steps_since": since, "forgiven": scaler.cur_hysteresis}

    def put_scale(self, scale: dict[str, float]) -> None:
        scaler = self.zero.loss_scaler
        if scaler.dynamic:
            scaler.cur_scale = scale["scale"]
            scaler.last_overflow_iter = scaler.cur_iter - 2 - int(scale["steps_since"])
            scaler.cur_hysteresis = int(scale.get("forgiven", scaler.cur_hysteresis))

    def _flats(self) -> list[Tensor]:
        """The flat fp32 weights that this rank steps: a part of many parameters, end to end."""
        zero = self.zero
        name = "fp32_partitioned_groups_flat" if hasattr(zero, "fp32_partitioned_groups_flat") else None
        return list(getattr(zero, name or "single_partition_of_fp32_groups"))

    def _have_stepped(self) -> bool:
        return any(flat in self.optimizer.state for flat in self._flats())

    def _make_room(self) -> None:
        """The optimiser's state as its first step would make it: DeepSpeed has none before."""
        if self._have_stepped():
            return
        for flat in self._flats():
            state = {key: torch.zeros_like(flat) for key in ADAM_KEYS}
            self.optimizer.state[flat] = {STEP: step_count(self.optimizer, flat.device, 0), **state}
        if hasattr(
            self.zero, "_lazy_init_hp_params_optimizer_state"
        ):  # ZeRO-1 and 2 link them to the parameters
            self.zero._lazy_init_hp_params_optimizer_state()


def _fetch_moment(parameter: nn.Parameter, key: str) -> Callable[[], Tensor]:
    from deepspeed.utils import safe_get_full_optimizer_state

    return lambda: safe_get_full_optimizer_state(parameter, key)
