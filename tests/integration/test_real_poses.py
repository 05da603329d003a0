"""A real dance through every system that follows poses: a step of each stage, and a sample, at Stable
Diffusion's block structure with narrow random weights.

Poses are found by BlazePose where it is installed; elsewhere key points of other people stand in.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from vgen.app import cli
from vgen.backbones import poses
from vgen.backbones.blank import Blank, blank
from vgen.backbones.image_model_folder import save
from vgen.data.decode import Cut
from vgen.data.one_clip import read_clip

pytestmark = [pytest.mark.clips, pytest.mark.slow]
CLIPS = Path(__file__).parents[3] / "shared" / "clips" / "pose"
DANCE, PEOPLE = CLIPS / "moonwalk.mp4", sorted(CLIPS.glob("*.png.json"))
FRAMES, SIDE = 4, 128


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a vision tower, which references are looked at with."""
    folder = tmp_path_factory.mktemp("model") / "sd15_narrow"
    narrow = blank(Blank.SD15_NARROW, seed=0)
    tower = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        projection_dim=32,
    )
    narrow.image_encoder = CLIPVisionModelWithProjection(tower)
    save(narrow.freeze(), folder, torch.float32)
    return folder


@pytest.fixture
def vgen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a command in this process and an empty folder; it must go well."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", sys.modules["__main__"].__spec__)
    for name in [n for n in os.environ if n.startswith(("SLURM_", "LOCAL_RANK", "NODE_RANK", "VGEN_"))]:
        monkeypatch.delenv(name)
    for name in ("HYDRA_FULL_ERROR", "VGEN_RUN_STAMP", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "1")

    def typed(verb: str, *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["vgen", verb, *arguments])
        assert cli.run(verb, list(arguments)) == 0, f"vgen {verb} {' '.join(arguments)}"

    return typed


@pytest.fixture
def dance(tmp_path: Path) -> Path:
    """The dancer's key points, or those of five people as five frames."""
    path = tmp_path / "dance.json"
    try:
        seen = poses.installed().see(read_clip(DANCE, Cut(fps=8, num_frames=FRAMES, size_px=256)))
        path.write_text(json.dumps(np.where(np.isnan(seen), 0.0, seen).tolist()))
    except ValueError:
        frames = [_frame(json.loads(file.read_text())) for file in PEOPLE]
        path.write_text(json.dumps(frames[:FRAMES]))
    return path


def _frame(people: list[dict[str, list[list[float]]]]) -> dict[str, object]:
    """OpenPose's object of a frame; the files say no size, so the farthest joint is at its end."""
    far = np.array([joint[:2] for person in people for joint in person["keypoints"]]).max(0)
    return {"people": people, "canvas_width": float(far[0]), "canvas_height": float(far[1])}


@pytest.fixture
def given(dance: Path, tmp_path: Path) -> tuple[str, ...]:
    """Poses on the body of a picture, and the first frame as the person and as what lies behind her."""
    still = read_clip(DANCE, Cut(fps=8, num_frames=1, size_px=256))[0]
    Image.fromarray(still).save(tmp_path / "ann.png")
    body = tmp_path / "ann.json"
    body.write_text(json.dumps([_frame(json.loads(PEOPLE[0].read_text()))]))
    return (f"pose={dance}", f"pose.retarget={body}", "reference=ann.png", "background=ann.png")


class Stages:
    """Steps of training and drawing on the dance."""

    def __init__(self, vgen, model: Path, dance: Path) -> None:
        self.vgen, self.model, self.dance = vgen, model, dance

    def train(self, method: str, name: str, *more: str, posed: bool = True) -> None:
        told = [f"data.video={DANCE}", "data.prompt=a person dances"]
        told += [f"data.given={{pose: {self.dance}}}"] if posed else []
        small = (f"data.size_px={SIDE}", f"data.window.num_frames={FRAMES}", "data.cache=false")
        steps = ("trainer.max_steps=2", "trainer=cpu", "trainer.num_threads=1", "optim.ema_decay=0")
        where = (f"backbone={self.model}", f"run.name={name}")
        self.vgen("train", f"method={method}", "data=clip", *told, *small, *steps, *where, *more)

    def draw(self, name: str, *given: str) -> np.ndarray:
        few = (f"sampling.num_frames={FRAMES}", "sampling.num_steps=2", "least_px=0")
        size = (f"sampling.width_px={SIDE}", f"sampling.height_px={SIDE}")
        self.vgen("generate", *given, *few, *size, f"out={name}")
        return np.asarray(Image.open(next(Path(name).glob("*.png"))))


@pytest.fixture
def stages(vgen, model: Path, dance: Path) -> Stages:
    return Stages(vgen, model, dance)


WORDS = "prompt=a person dances"


def test_follow_your_pose(stages: Stages, given: tuple[str, ...]) -> None:
    stages.train("follow_your_pose_encoder", "encoder")
    stages.train("follow_your_pose", "motion", posed=False)
    both = ("adapter=runs/motion", "stack.pose.file=runs/encoder", WORDS)
    on_her = stages.draw("a", *both, *given[:2])
    assert not np.array_equal(on_her, stages.draw("b", *both, given[0]))


def test_control_a_video(stages: Stages, given: tuple[str, ...]) -> None:
    stages.train("control_net", "pose", "method.condition=pose")
    stages.train("control_a_video", "moving", "method.condition=pose", "stack.pose.file=runs/pose")
    drawn = stages.draw("a", "adapter=runs/moving", WORDS, *given[:3], f"source={DANCE}")
    assert drawn.std() > 0


def test_dreampose(stages: Stages, given: tuple[str, ...]) -> None:
    size = (f"method.reference.height_px={SIDE}", f"method.reference.width_px={SIDE}")
    stages.train("dreampose", "base", *size)
    stages.train("dreampose", "subject", "run.init_from=runs/base", "method.drop=0", *size)
    stages.train("dreampose_decoder", "decoder", posed=False)
    plain = stages.draw("a", "adapter=runs/subject", *given[:3])
    learnt = stages.draw("b", "adapter=runs/subject", "stack.decoder.file=runs/decoder", *given[:3])
    assert not np.array_equal(plain, learnt)


def test_disco(stages: Stages, given: tuple[str, ...]) -> None:
    stages.train("disco", "people", "method.lesson=attributes")
    stages.train("disco", "dance", "stack.people.file=runs/people")
    stages.train("disco_temporal", "together", "stack.dance.file=runs/dance")
    dance, together = (stages.draw(run, f"adapter=runs/{run}", *given) for run in ("dance", "together"))
    assert not np.array_equal(dance, together)
