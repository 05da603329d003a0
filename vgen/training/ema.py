"""Exponential moving average of what learns, and of nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from vgen.training.partitions import own_part, put_part


class Ema(pl.Callback):
    """Keeps fp32 averages; validation and samples run on them; they resume from the checkpoint. The decay
    warms up as (1 + n) / (10 + n).

    ``apart`` names components that have no average.

    Under ZeRO-3 every rank averages the part of the weights that it holds: an average is taken value by
    value, so nothing is gathered.
    """

    def __init__(self, decay: float, apart: Collection[str] = ()) -> None:
        self.decay, self.num_updates = decay, 0
        self.apart = frozenset(apart)
        self.average: dict[str, Tensor] = {}
        self._seen_step = -1

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        loaded, self.average = self.average, {}
        for name, parameter in module.learning.items():
            if name.partition(".")[0] in self.apart:
                continue
            part = own_part(parameter)
            self.average[name] = loaded.get(name, part).to(part.device, torch.float32, copy=True)
        self._seen_step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if trainer.global_step == self._seen_step:
            return  # accumulating
        self._seen_step = trainer.global_step
        self.num_updates += 1
        decay = min(self.decay, self.num_updates / (9 + self.num_updates))
        averages = list(self.average.values())
        torch._foreach_lerp_(
            averages, [own_part(module.learning[n]).float() for n in self.average], 1 - decay
        )

    @contextmanager
    def weights(self, module: Any) -> Iterator[None]:
        """The module with averaged weights inside the block."""
        held = {name: own_part(p).clone() for name, p in module.learning.items()}
        self._copy(module, self.average)
        try:
            yield
        finally:
            self._copy(module, held)

    @staticmethod
    def _copy(module: Any, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            put_part(module.learning[name], value)

    def on_validation_start(self, trainer: pl.Trainer, module: Any) -> None:
        if self.average:
            self._context = self.weights(module)
            self._context.__enter__()

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        if self.average:
            self._context.__exit__(None, None, None)

    def load(self, average: dict[str, Tensor], num_updates: int) -> None:
        """Go on from the averages' own parts, before training starts."""
        self.average, self.num_updates = average, num_updates
