"""What only a CUDA device can show; skipped, with the reason, elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vgen.app.config import RunSettings, TrainRun
from vgen.app.loading import Backbone
from vgen.app.train import train
from vgen.attention.processor import control_of, route
from vgen.attention.store import AttentionStore, Place, StoreSpec
from vgen.backbones.blank import Blank, blank
from vgen.backbones.video_unet import VideoUNet
from vgen.data.clips import Window
from vgen.diffusion.moment import Direction, Moment, Rows
from vgen.formats.adapter import load_adapter
from vgen.methods.animatediff import AnimateDiff
from vgen.training.corpus import Corpus
from vgen.training.foretold import ClipShape, Step, counts_of
from vgen.training.optimisation import Optimisation
from vgen.training.probe import probe
from vgen.training.strategies import Accelerator, Precision, TrainerSettings

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_on_a_gpu(
    tmp_path: Path, toy_shards: Path, precision: Precision, checkpointing: bool
) -> None:
    trainer = TrainerSettings(
        accelerator=Accelerator.GPU,
        precision=precision,
        gradient_checkpointing=checkpointing,
        max_steps=3,
        val_every_steps=3,
        checkpoint_every_steps=3,
    )
    run = TrainRun(
        method=AnimateDiff(),
        backbone=Backbone(blank=Blank.TOYBOX),
        data=Corpus(path=str(toy_shards), window=Window(num_frames=8), batch_size=2, val_clips=2, cache=True),
        trainer=trainer,
        run=RunSettings(name="gpu", dir=str(tmp_path)),
    )
    tensors, _ = load_adapter(train(run, {}) / "adapter.safetensors")
    assert all(torch.isfinite(v).all() for v in tensors.values())


def test_what_attention_saw_waits_in_pinned_memory_and_comes_back_the_same() -> None:
    """Beside the model, pinned in main memory, on disk, and pinned with the rest on disk: one run, the same
    values on the device again."""
    model = blank(Blank.TOYBOX, seed=0).freeze().to("cuda", torch.float32)
    unet = VideoUNet(model.unet)
    route(unet)
    at = Moment(0, 10, 300, Direction.INVERT, Rows(("text",), ("target",)))
    settings = [*(StoreSpec(place=place) for place in Place), StoreSpec(max_memory_gb=1e-4)]
    stores = [AttentionStore(one) for one in settings]
    with torch.no_grad(), control_of(unet).acting(recorders=stores):
        control_of(unet).enter(at)
        unet(
            torch.randn(1, 4, 4, 16, 16, device="cuda"),
            torch.tensor(300, device="cuda"),
            model.encode_text(["a red circle"]),
        )
    beside, pinned, _, spilling = stores
    assert all(x.is_pinned() for parts in pinned._held.values() for x in parts.values())
    assert 0 < spilling.nbytes_on_disk < spilling.nbytes
    for site in control_of(unet).sites.values():
        want = beside.get(site, at)
        for store in stores:
            got = store.get(site, at)
            assert all(got[name].is_cuda and torch.equal(got[name], value) for name, value in want.items())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_the_memory_of_a_step_is_foretold(precision: Precision, checkpointing: bool) -> None:
    """At Stable Diffusion's width, where what cuBLAS keeps for itself is small beside it."""
    settings = TrainerSettings(precision=precision, gradient_checkpointing=checkpointing)
    step = Step(
        recipe=AnimateDiff(),
        model=lambda: blank(Blank.SD15),
        optimisation=Optimisation(),
        settings=settings,
        clips=ClipShape(num_clips=1, num_frames=8, height_px=256, width_px=256),
        on_gpu=True,
    )
    real = probe(step, torch.device("cuda")).peak
    assert counts_of(step).peak == pytest.approx(real, rel=0.1)
