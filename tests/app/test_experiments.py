"""Ready runs are runs: each experiment for Stable Diffusion becomes typed settings, one GPU and eight see the
same clips a step, and its shapes train."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vgen.app import composed
from vgen.app.config import TrainRun, offer_training
from vgen.formats.animatediff import Layout, Version, implied
from vgen.formats.readers import unsaid
from vgen.methods.animatediff import AnimateDiff
from vgen.training.strategies import Accelerator, Precision, Spread

ROOT = Path(__file__).parents[2]
FAMILIES, SIZES = {"sd15": Version.V3, "sdxl": Version.SDXL}, ("256", "512")
READY = [f"{family}_motion_{size}" for family in FAMILIES for size in SIZES]


def settled(name: str, tmp_path: Path) -> TrainRun:
    keys = {"experiment": name, "backbone.path": str(tmp_path), "data.path": str(tmp_path)}
    return composed.settings("train", TrainRun, offer_training, keys)


def clips_a_step(run: TrainRun) -> int:
    return run.data.batch_size * run.trainer.world_size * run.trainer.accumulate


@pytest.mark.parametrize("name", READY)
def test_one_gpu_and_eight_see_the_same_clips_a_step(name: str, tmp_path: Path) -> None:
    one, eight = settled(name, tmp_path), settled(f"{name}_8gpu", tmp_path)
    assert clips_a_step(one) == clips_a_step(eight) == 32
    assert (one.trainer.world_size, eight.trainer.world_size) == (1, 8)
    assert eight.trainer.strategy is Spread.DDP
    for run in (one, eight):
        assert isinstance(run.method, AnimateDiff)
        assert (run.trainer.accelerator, run.trainer.precision) == (Accelerator.GPU, Precision.BF16)
        assert (run.optim.lr, run.data.window.num_frames, run.backbone.path) == (1e-4, 16, str(tmp_path))
    assert (one.method, one.optim, one.callbacks) == (eight.method, eight.optim, eight.callbacks)
    assert eight.run.name == f"{name}_8gpu"


@pytest.mark.parametrize("name", READY)
def test_others_need_to_be_told_nothing_of_what_comes_out(name: str, tmp_path: Path) -> None:
    recipe = settled(name, tmp_path).method
    assert isinstance(recipe, AnimateDiff)
    layout = Layout(version=FAMILIES[name[:4]], channels=(), mid_block=False, num_positions=32)
    plain = composed.asdict(recipe)
    schedule = plain["schedule"] | {"betas": recipe.schedule.betas.value}
    assert unsaid(layout, plain["motion"], schedule) == {}
    assert {**implied(layout)["schedule"]}.items() <= schedule.items()


@pytest.mark.parametrize("name", READY)
def test_without_an_image_model_none_is_taken(name: str) -> None:
    """Not the toybox in silence."""
    backbone = composed.settings("train", TrainRun, offer_training, {"experiment": name}).backbone
    assert backbone.path == ""
    with pytest.raises(ValueError, match=r"names no image model; give backbone\.path=FOLDER"):
        backbone.open()


def test_the_guide_names_them_all_and_their_clips() -> None:
    text = (ROOT / "docs" / "guides" / "training.md").read_text()
    there = {path.stem for path in (ROOT / "conf" / "experiment").glob("*_motion_[0-9]*.yaml")}
    assert there == {*READY, *(f"{name}_8gpu" for name in READY)}
    assert there <= set(re.findall(r"`(\w+)`", text))


@pytest.mark.slow
def test_its_shapes_train_and_are_exported(tmp_path: Path, toy_shards: Path) -> None:
    """Two steps on the narrow model of the family's shapes, by the command of the guide."""
    vgen = Path(sys.executable).with_name("vgen")
    for family, narrow in (("sd15", "sd15_narrow"), ("sdxl", "sdxl_narrow")):
        small = [
            f"data.path={toy_shards}",
            "backbone=blank",
            f"backbone.blank={narrow}",
            "trainer=cpu",
            "data.window.num_frames=2",
            "data.val_clips=2",
            "data.batch_size=1",
            "data.num_workers=0",
            "callbacks.prompts=[]",
            "debug=smoke",
            "trainer.accumulate=1",
            "trainer.precision=fp32",
            f"run.dir={tmp_path}",
        ]
        wish = [vgen, "train", f"experiment={family}_motion_256", *small]
        here = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(wish, env=here, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"{family}_motion_256" / "adapter.safetensors").is_file()
