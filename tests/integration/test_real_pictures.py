"""Real pictures, the whole way, at Stable Diffusion's block structure with narrow random weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vgen.app.config import RunSettings, TrainRun
from vgen.app.edit import EditRun, edit_files
from vgen.app.export import Export, export
from vgen.app.generate import GenerateRun, generate_files
from vgen.app.loading import UNTRAINED, Backbone
from vgen.app.train import train
from vgen.backbones.blank import Blank, blank
from vgen.backbones.image_model_folder import save
from vgen.data.clips import Window
from vgen.formats.adapter import load_adapter
from vgen.methods._sampling import SamplingOverrides
from vgen.methods.dreamartist import DreamArtist
from vgen.methods.instruct_pix2pix import InstructPix2Pix
from vgen.training.corpus import Corpus
from vgen.training.optimisation import Optimisation
from vgen.training.strategies import TrainerSettings

pytestmark = pytest.mark.clips
IMAGES = Path(__file__).parents[3] / "shared" / "clips" / "images"
FEW = SamplingOverrides(num_steps=2, width_px=64, height_px=64)


@pytest.fixture
def backbone(tmp_path: Path) -> str:
    save(blank(Blank.SD15_NARROW, seed=0).freeze(), tmp_path / "model", torch.float32)
    return str(tmp_path / "model")


def test_a_photo_is_edited_by_an_instruction(tmp_path: Path, backbone: str) -> None:
    run = EditRun(
        method=InstructPix2Pix(),
        image=str(IMAGES / "instruct-example.jpg"),
        instruction="turn him into a cyborg",
        adapter=UNTRAINED,
        backbone=backbone,
        size_px=64,
        sampling=SamplingOverrides(num_steps=2),
        out=str(tmp_path / "out"),
    )
    assert (edit_files(run, {}) / "edited.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_dog_becomes_two_words(tmp_path: Path, backbone: str) -> None:
    """Trains, draws, and leaves as what others read."""
    run = TrainRun(
        method=DreamArtist(init="circle"),
        backbone=Backbone(path=backbone),
        data=Corpus(
            video=str(IMAGES / "dog" / "00.jpg"),
            prompt="a photo of <subject>",
            size_px=64,
            window=Window(num_frames=1),
            batch_size=1,
            val_clips=1,
        ),
        optim=Optimisation(lr=3e-3, ema_decay=0.0),
        trainer=TrainerSettings(max_steps=2, log_every_steps=1, val_every_steps=2),
        run=RunSettings(name="dog", dir=str(tmp_path / "runs")),
    )
    folder = train(run, {"method": {}})
    tensors, card = load_adapter(folder / "adapter.safetensors")
    assert card.recipe == "dreamartist"
    assert [tuple(v.shape) for v in tensors.values()] == [(6, 32), (3, 32)]
    drawn = GenerateRun(
        adapter=str(folder), prompt="a <subject> rests", sampling=FEW, out=str(tmp_path / "clips")
    )
    assert list(Path(generate_files(drawn, {})).glob("*.mp4"))
    export(Export(run=str(folder), backbone=backbone, out=str(tmp_path / "words")))
    assert {p.name for p in (tmp_path / "words").iterdir()} == {
        "subject.safetensors",
        "subject-neg.safetensors",
        "vgen.json",
    }
    assert json.loads((tmp_path / "words" / "vgen.json").read_text())["recipe"] == "dreamartist"


def vgen(folder: Path, *words: str) -> None:
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "vgen", *words], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


QUIET = [
    "trainer=cpu",
    "logger=disabled",
    "callbacks=none",
    "trainer.max_steps=2",
    "trainer.val_every_steps=2",
]
DRAWN = ["sampling.num_steps=2", "sampling.width_px=64", "sampling.height_px=64"]


@pytest.mark.slow
@pytest.mark.parametrize("subject", ["dog", "vase"])
def test_pictures_of_a_subject_become_an_image_model(tmp_path: Path, backbone: str, subject: str) -> None:
    """DreamBooth, as one types it: learnt, then drawn as a picture and beneath a motion module."""
    told = ["experiment=dreambooth", f"data.images={IMAGES / subject}", f"backbone.path={backbone}"]
    prompt = f'data.prompt="a photo of sks {subject}"'
    small = ["method.prior_weight=0", "data.size_px=128", "data.batch_size=1", "data.val_clips=1"]
    identifier = "method.identifier=sks"
    vgen(tmp_path, "train", *told, prompt, *small, identifier, *QUIET, "run.name=subject")
    model = "backbone=runs/subject/image_model"
    said = f"prompt=a photo of sks {subject}"
    vgen(tmp_path, "generate", model, "adapter=none", said, "out=still", "sampling.num_frames=1", *DRAWN)
    vgen(
        tmp_path, "generate", model, "adapter=untrained", said, "out=moving", "sampling.num_frames=4", *DRAWN
    )
    assert list((tmp_path / "still").glob("*.png"))
    assert list((tmp_path / "moving").glob("*.mp4"))


@pytest.mark.slow
def test_a_photo_stands_in_the_place_of_words(tmp_path: Path, backbone: str) -> None:
    """Prompt-Free Diffusion on shards of real pictures."""
    listed = [f"data.path={IMAGES / 'vase'}", 'data.prompt="a vase"', "size_px=64", "fields=[reference]"]
    vgen(tmp_path, "prepare", "data=images", *listed, "out=vases")
    small = ["data.path=vases", "data.window.num_frames=1", "data.batch_size=2", "data.val_clips=1"]
    encoder = "method.encoder={depths:[2,2,2,2],decoder_layers:2,query_layers:3,local_queries:4}"
    where = f"backbone.path={backbone}"
    vgen(tmp_path, "train", "method=prompt_free", encoder, *small, where, *QUIET, "run.name=eyes")
    photo = f"reference={IMAGES / 'dog' / '00.jpg'}"
    vgen(tmp_path, "generate", "adapter=runs/eyes", f"backbone={backbone}", photo, "out=drawn", *DRAWN)
    assert list((tmp_path / "drawn").glob("*.png"))
