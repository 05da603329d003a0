"""A ControlNet, low-rank layers and a whole UNet in two processes that are killed and go on: they learn what
one process learns in one go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import structure_runs
from safetensors.torch import load_file
from structure_runs import STEPS

from vgen.backbones.blank import Blank, blank
from vgen.data.prepare import Prepare, prepare
from vgen.data.toybox import ToyboxSource
from vgen.formats.adapter import load_adapter
from vgen.training.run import fit

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
LEARNS = {
    "control_net": {"edges"},
    "lora": {"unet", "text_encoder"},
    "dreambooth": set(),
}
"""By method, the parts that its adapter holds. DreamBooth writes an image model and no adapter."""
UNET = "image_model/unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of two frames with their edges."""
    out = tmp_path_factory.mktemp("edged") / "shards"
    wish = {"num_frames": 2, "size_px": 32, "fields": ["edges"], "num_processes": 1}
    prepare(Prepare(data=ToyboxSource(num_clips=16, seed=5), out=str(out), **wish), lambda *_: None)
    return out


@pytest.fixture(scope="module", params=list(LEARNS))
def alone(request: pytest.FixtureRequest, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, in a folder called by its method."""
    return fit(structure_runs.job(shards, tmp_path_factory.mktemp("alone") / request.param, request.param))


@pytest.mark.parametrize("spread", ["ddp", pytest.param("deepspeed_zero2", marks=pytest.mark.deepspeed)])
def test_two_processes_that_were_killed_learn_what_one_learns(
    spread: str, alone: Path, shards: Path, tmp_path: Path, environment, figures, assert_same_adapter
) -> None:
    method, run = alone.name, tmp_path / "run"

    def started(*killed_at: str) -> int:
        script = [sys.executable, str(HERE / "structure_runs.py")]
        command = [*script, str(shards), str(run), method, spread, *killed_at]
        env = environment(PYTHONPATH=os.pathsep.join(sys.path))
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400)
        assert killed_at or done.returncode == 0, done.stdout + done.stderr
        return done.returncode

    assert started("2") != 0
    assert not (run / "adapter.safetensors").exists()
    assert not (run / "image_model").exists()
    assert (run / "checkpoints" / "step-0000002" / "manifest.json").is_file()
    assert started() == 0
    for name in ("train/loss", "val/loss"):
        assert figures(run, name)[-2:] == pytest.approx(figures(alone, name)[-2:], rel=1e-4), name
    assert len(figures(alone, "train/loss")) == STEPS
    if not LEARNS[method]:
        assert_same_unet(run, alone)
        return
    tensors, card = load_adapter(run / "adapter.safetensors")
    assert card.recipe == method
    assert {name.split(".")[0] for name in tensors} == LEARNS[method]
    assert_same_adapter(run, alone)


def assert_same_unet(got: Path, want: Path) -> None:
    """Equal up to fp16 rounding, in which both are kept; and it learnt something."""
    tensors, expected, born = load_file(got / UNET), load_file(want / UNET), blank(Blank.TOYBOX, seed=0).unet
    assert set(tensors) == set(expected) == set(born.state_dict())
    for name, value in expected.items():
        assert (tensors[name].float() - value.float()).norm() < 1e-3 * value.float().norm() + 1e-6, name
    first = born.state_dict()["conv_in.weight"]
    assert (expected["conv_in.weight"].float() - first).norm() > 1e-2 * first.norm()
