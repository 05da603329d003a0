"""A stage of every system that follows poses under ZeRO-2: two CPU processes learn what one learns of the
same samples."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vgen.app.loading import load_backbone
from vgen.data.prepare import Prepare, prepare
from vgen.data.toybox import ToyboxSource
from vgen.formats.adapter import Card, save_adapter
from vgen.methods import assemble
from vgen.methods.control_net import ControlNets, Shown
from vgen.toybox.sampling import Mix

pytestmark = [pytest.mark.deepspeed, pytest.mark.slow]
STEPS = 2
VGEN = Path(sys.executable).with_name("vgen")
SMALL = (
    "backbone=blank",
    "backbone.blank=toybox",
    "trainer.accelerator=cpu",
    "trainer.num_threads=1",
    f"trainer.max_steps={STEPS}",
    "trainer.log_every_steps=1",
    "trainer.val_every_steps=1",
    f"trainer.checkpoint_every_steps={STEPS}",
    "data.window.num_frames=2",
    "data.val_clips=2",
    "optim.eps=1e-3",
    "optim.lr=1e-3",
    "optim.warmup_steps=0",
    "optim.ema_decay=0",
    "run.seed=3",
    "run.dir=.",
)
STAGES = {
    "follow_your_pose_encoder": (),
    "dreampose": (),
    "disco": ("method.lesson=attributes",),
    "control_a_video": ("method.condition=pose", "stack.pose.file=pose.safetensors"),
}


@pytest.fixture(scope="module")
def puppets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("puppets") / "shards"
    source = ToyboxSource(
        num_clips=8, seed=2, mix=Mix(core=0, many=0, texture=0, motion=0, relation=0, puppet=1)
    )
    fields = ["pose", "reference", "background"]
    prepare(Prepare(data=source, out=str(out), num_frames=4, num_processes=1, fields=fields), lambda *_: None)
    return out


def net(path: Path) -> None:
    """A ControlNet for poses that says something."""
    model, recipe = load_backbone("blank:toybox:0"), ControlNets(condition=Shown.POSE)
    draw = torch.Generator().manual_seed(0)
    found = assemble(recipe, model).modules["pose"].named_parameters()
    moved = {f"pose.{n}": p.detach() + 0.1 * torch.randn(p.shape, generator=draw) for n, p in found}
    save_adapter(path, moved, Card.of("control_net", recipe, model, {}, {}))


@pytest.mark.parametrize("method", STAGES)
def test_two_processes_learn_what_one_learns(
    method: str, puppets: Path, environment, figures, assert_same_adapter, tmp_path: Path
) -> None:
    if importlib.util.find_spec("deepspeed") is None:  # found, not imported: it would read its accelerator
        pytest.skip("deepspeed is not installed")
    net(tmp_path / "pose.safetensors")

    def trained(name: str, *words: str) -> Path:
        told = (f"method={method}", f"data.path={puppets}", f"run.name={name}", *STAGES[method], *SMALL)
        command = [str(VGEN), "train", *told, *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=400
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return tmp_path / name

    alone = trained("alone", "data.batch_size=2")
    both = trained("both", "trainer=deepspeed_zero2", "data.batch_size=1")
    for name in ("train/loss", "val/loss"):
        assert figures(both, name) == pytest.approx(figures(alone, name), rel=1e-4), name
    assert_same_adapter(both, alone)
