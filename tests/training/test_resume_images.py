"""Runs on pictures that are killed and go on: what they write is what an undisturbed run writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vgen.backbones.blank import Blank, blank
from vgen.backbones.image_model_folder import load
from vgen.data.clips import Window
from vgen.data.pictures import PictureSource
from vgen.data.prepare import Prepare, prepare
from vgen.data.toybox_edits import ToyboxEdits
from vgen.layers.lora import LowRankSpec
from vgen.methods import Recipe
from vgen.methods._low_rank import Target
from vgen.methods.dreamartist import DreamArtist, DreamArtistPlusPlus
from vgen.methods.dreambooth import DreamBooth
from vgen.methods.instruct_pix2pix import InstructPix2Pix
from vgen.training.corpus import Corpus
from vgen.training.job import Job
from vgen.training.optimisation import Optimisation
from vgen.training.records import LoggerSettings
from vgen.training.run import fit
from vgen.training.samples import SampleSettings
from vgen.training.strategies import TrainerSettings


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("edits") / "pairs"
    prepare(Prepare(data=ToyboxEdits(num_pairs=8, stills=True), out=str(out), num_processes=1))
    return out


def job(folder: Path, recipe: Recipe, corpus: Corpus, resume: bool = False) -> Job:
    settings: dict[str, Any] = {"val_every_steps": 3, "checkpoint_every_steps": 1, "log_every_steps": 1}
    return Job(
        recipe=recipe,
        model=blank(Blank.TOYBOX, seed=0),
        corpus=corpus,
        optimisation=Optimisation(lr=1e-3, ema_decay=0.5),
        settings=TrainerSettings(max_steps=3, num_threads=1, **settings),
        logger=LoggerSettings(),
        samples=SampleSettings(),
        folder=folder,
        name=folder.name,
        seed=3,
        resume=resume,
        plain={"note": "test"},
    )


def test_instruct_pix2pix_goes_on_after_a_kill(pairs: Path, goes_on) -> None:
    corpus = Corpus(path=str(pairs), window=Window(num_frames=1), batch_size=2, val_clips=2, cache=True)
    whole = goes_on(lambda folder, resume: job(folder, InstructPix2Pix(), corpus, resume), 2)
    assert "unet.inserted.conv_in.conv.weight" in whole
    assert whole["unet.inserted.conv_in.conv.weight"].abs().max() > 0


@pytest.mark.parametrize(
    "recipe", [DreamArtist(init="circle"), DreamArtistPlusPlus(init="circle")], ids=["plain", "++"]
)
def test_dreamartist_goes_on_after_a_kill(recipe: DreamArtist, tmp_path: Path, goes_on) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "one.png")
    corpus = Corpus(
        video=str(tmp_path / "one.png"),
        prompt="a large <subject>",
        window=Window(num_frames=1),
        batch_size=1,
        val_clips=1,
    )
    whole = goes_on(lambda folder, resume: job(folder, recipe, corpus, resume), 2)
    assert list(whole)[:2] == ["text.negative", "text.positive"]


@pytest.fixture
def subject(tmp_path: Path) -> Corpus:
    """Three pictures of a subject, four of its class."""
    for name, num in (("dog", 3), ("class", 4)):
        (tmp_path / name).mkdir()
        for i in range(num):
            pixels = np.random.default_rng([num, i]).integers(0, 256, (64, 64, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    source = PictureSource(path=str(tmp_path / "class"), prompt="a large circle")
    prepare(Prepare(data=source, out=str(tmp_path / "prior"), size_px=64, num_processes=1))
    return Corpus(
        images=str(tmp_path / "dog"),
        prompt="a large sks circle",
        prior_path=str(tmp_path / "prior"),
        window=Window(num_frames=1),
        batch_size=1,
        val_clips=1,
        cache=True,
        cache_dir=str(tmp_path / "cache"),
    )


def test_dreambooth_goes_on_after_a_kill(subject: Corpus, goes_on) -> None:
    recipe = DreamBooth(targets=[Target(layer=LowRankSpec(rank=2))])
    whole = goes_on(lambda folder, resume: job(folder, recipe, subject, resume), 2)
    assert all(value.abs().max() > 0 for value in whole.values())


def test_dreambooth_of_a_whole_image_model_goes_on_after_a_kill(
    tmp_path: Path, subject: Corpus, killed_in
) -> None:
    """UNet and text encoder learn, their averages are written, and everything else is as it came."""
    recipe, wish = DreamBooth(text_encoder=True), replace(subject, cache=False, cache_dir=None)
    fit(job(tmp_path / "whole", recipe, wish))
    killed_in(job(tmp_path / "killed", recipe, wish), 2)
    fit(job(tmp_path / "killed", recipe, wish, resume=True))
    whole, again = (load(tmp_path / name / "image_model").components() for name in ("whole", "killed"))
    before = blank(Blank.TOYBOX, seed=0).components()
    for part, module in whole.items():
        same = [torch.equal(v, again[part].state_dict()[n]) for n, v in module.state_dict().items()]
        assert all(same), part
        kept = [
            torch.equal(v, before[part].state_dict()[n].half()) for n, v in module.half().state_dict().items()
        ]
        assert all(kept) is (part not in recipe.engages()), part
