"""A stage over a frozen one: trained, killed, resumed, and what its card says of what lies beneath."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from vgen.app.stacks import opened
from vgen.backbones.blank import Blank, blank
from vgen.data.clips import Window
from vgen.formats.adapter import Card, load_adapter, save_adapter
from vgen.layers.lora import LowRankSpec
from vgen.layers.motion_module import MotionModuleSpec
from vgen.methods import assemble
from vgen.methods._assembly import Part
from vgen.methods.animatediff import AnimateDiff
from vgen.methods.motion_lora import MotionLora
from vgen.training.corpus import Corpus
from vgen.training.job import Beneath, Job
from vgen.training.optimisation import Optimisation
from vgen.training.records import LoggerSettings
from vgen.training.samples import SampleSettings
from vgen.training.strategies import TrainerSettings

STEPS = 4


@pytest.fixture
def module(tmp_path: Path) -> Path:
    model = blank(Blank.TOYBOX, seed=0).freeze()
    recipe = AnimateDiff(motion=MotionModuleSpec(heads=4))
    unet = assemble(recipe, model).unet
    torch.manual_seed(0)
    tensors = {
        f"unet.{n}": p.detach() + 0.05 * torch.randn_like(p)
        for n, p in unet.named_parameters()
        if n.startswith("inserted.")
    }
    path = tmp_path / "motion.safetensors"
    save_adapter(path, tensors, Card.of("animatediff", recipe, model, {}, {}))
    return path


def job(folder: Path, shards: Path, module: Path, resume: bool = False) -> Job:
    usual: dict[str, Any] = {"val_every_steps": 4, "checkpoint_every_steps": 2, "log_every_steps": 1}
    below = [
        Beneath(part=Part(one.slot, one.recipe), tensors=one.tensors, said=one.as_base())
        for one in opened(str(module), f"stack.motion.file={module}", "motion")
    ]
    return Job(
        recipe=MotionLora(layer=LowRankSpec(rank=2)),
        model=blank(Blank.TOYBOX, seed=0),
        corpus=Corpus(path=str(shards), window=Window(num_frames=2), batch_size=2, val_clips=4, cache=True),
        optimisation=Optimisation(lr=1e-3, warmup_steps=2, ema_decay=0.9),
        settings=TrainerSettings(max_steps=STEPS, num_threads=1, **usual),
        logger=LoggerSettings(),
        samples=SampleSettings(),
        folder=folder,
        name=folder.name,
        seed=3,
        resume=resume,
        plain={"note": "test"},
        beneath=below,
    )


def test_a_stage_that_was_killed_goes_on_as_if_it_had_not(
    tmp_path: Path, toy_shards: Path, module: Path, goes_on
) -> None:
    whole = goes_on(lambda folder, resume: job(folder, toy_shards, module, resume), 3)
    _, card = load_adapter(tmp_path / "whole" / "adapter.safetensors")
    assert all("@lora." in name for name in whole)
    assert [(base["name"], base["recipe"]) for base in card.base] == [("motion", "animatediff")]
    assert [layer.slot for layer in opened(str(tmp_path / "whole"), "adapter")] == ["motion", ""]  # type: ignore[union-attr]
