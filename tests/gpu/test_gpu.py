"""What only a CUDA device can show; skipped, with the reason, elsewhere."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vgen.app.config import RunSettings, TrainRun
from vgen.app.loading import Backbone
from vgen.app.train import train
from vgen.backbones.blank import Blank
from vgen.data.clips import Window
from vgen.formats.adapter import load_adapter
from vgen.methods.animatediff import AnimateDiff
from vgen.training.loader import Corpus
from vgen.training.strategies import Accelerator, Precision, TrainerSettings

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_on_a_gpu(tmp_path: Path, toy_shards: Path, precision: Precision, checkpointing: bool) -> None:
    trainer = TrainerSettings(
        accelerator=Accelerator.GPU, precision=precision, gradient_checkpointing=checkpointing, max_steps=3, val_every_steps=3,
        checkpoint_every_steps=3,
    )
    run = TrainRun(
        method=AnimateDiff(), backbone=Backbone(blank=Blank.TOYBOX),
        data=Corpus(path=str(toy_shards), window=Window(num_frames=8), batch_size=2, val_clips=2, cache=True),
        trainer=trainer, run=RunSettings(name="gpu", dir=str(tmp_path)),
    )
    tensors, _ = load_adapter(train(run, {}) / "adapter.safetensors")
    assert all(torch.isfinite(v).all() for v in tensors.values())
