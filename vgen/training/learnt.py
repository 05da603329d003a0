"""What a run learnt, taken where it is whole: at the end of training, before the strategy takes the weights
apart, or from a checkpoint."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from vgen.training.checkpoint_folder import AVERAGES, WEIGHTS, Checkpoint
from vgen.training.ema import Ema
from vgen.training.partitions import is_partitioned, wholes


class Learnt(pl.Callback):
    """``values`` after training: the averaged weights where there is an average, on the CPU.

    Every rank takes part, since weights may be in parts.
    """

    def __init__(self, ema: Ema | None) -> None:
        self.ema = ema
        self.values: dict[str, Tensor] = {}

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        if self.ema is None:
            self.values = wholes(module.learning)
        elif any(is_partitioned(p) for p in module.learning.values()):
            with self.ema.weights(module):
                self.values = wholes(module.learning)
        else:
            self.values = {name: value.to("cpu", copy=True) for name, value in self.ema.average.items()}


def saved(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The same out of a checkpoint."""
    return checkpoint.tensors(AVERAGES if AVERAGES in checkpoint.names else WEIGHTS)
