"""Runs on pictures that are killed and go on: what they write is what an undisturbed run writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vgen.backbones.blank import Blank, blank
from vgen.data.batch import Batch
from vgen.data.clips import Window
from vgen.data.prepare import Prepare, prepare
from vgen.data.toybox_edits import ToyboxEdits
from vgen.formats.adapter import load_adapter
from vgen.methods import Recipe
from vgen.methods.dreamartist import DreamArtist
from vgen.methods.instruct_pix2pix import InstructPix2Pix
from vgen.training.learner import Learner
from vgen.training.loader import Corpus
from vgen.training.optimisation import Optimisation
from vgen.training.records import LoggerSettings
from vgen.training.run import Job, fit
from vgen.training.samples import SampleSettings
from vgen.training.strategies import TrainerSettings


class Killed(BaseException):
    """As by kill -9."""


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


def end_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Learner.training_step

    def ending(self: Learner, batch: Batch, index: int) -> torch.Tensor:
        if self.trainer.global_step == step:
            monkeypatch.setattr(Learner, "training_step", run)
            raise Killed
        return run(self, batch, index)

    monkeypatch.setattr(Learner, "training_step", ending)


def killed_and_whole(
    folder: Path, recipe: Recipe, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, torch.Tensor]]:
    """What a run that was killed in its third step wrote at last, and what an undisturbed one wrote."""
    fit(job(folder / "whole", recipe, corpus))
    end_at(2, monkeypatch)
    with pytest.raises(Killed):
        fit(job(folder / "killed", recipe, corpus))
    fit(job(folder / "killed", recipe, corpus, resume=True))
    return [load_adapter(folder / name / "adapter.safetensors")[0] for name in ("killed", "whole")]


def test_instruct_pix2pix_goes_on_after_a_kill(
    tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = Corpus(path=str(pairs), window=Window(num_frames=1), batch_size=2, val_clips=2, cache=True)
    again, whole = killed_and_whole(tmp_path, InstructPix2Pix(), corpus, monkeypatch)
    assert "unet.inserted.conv_in.conv.weight" in whole
    assert whole["unet.inserted.conv_in.conv.weight"].abs().max() > 0
    assert whole.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_dreamartist_goes_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "one.png")
    corpus = Corpus(
        video=str(tmp_path / "one.png"),
        prompt="a large <subject>",
        window=Window(num_frames=1),
        batch_size=1,
        val_clips=1,
    )
    again, whole = killed_and_whole(tmp_path, DreamArtist(init="circle"), corpus, monkeypatch)
    assert list(whole) == ["text.negative", "text.positive"]
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
