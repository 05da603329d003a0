"""Pictures of a class that an image model draws once, and a subject learnt beside them, by the command
line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vgen.app import cli
from vgen.app.class_images import ClassImages
from vgen.backbones.image_model import ImageModel
from vgen.backbones.image_model_folder import save
from vgen.data.decode import Cut
from vgen.data.prepare import Prepare, prepare
from vgen.data.reader import ShardReader
from vgen.data.workspace import Counts


def wish(out: Path, num_images: int = 2) -> Prepare:
    source = ClassImages(prompt="a large red circle", num_images=num_images, num_steps=2)
    return Prepare(data=source, out=str(out), num_processes=1)


def test_a_class_is_drawn_once_and_each_picture_by_its_number(tmp_path: Path) -> None:
    """More of them begin with the same, a second call draws none, and no two are alike."""
    assert prepare(wish(tmp_path / "two")).fresh
    assert not prepare(wish(tmp_path / "two")).fresh
    prepare(wish(tmp_path / "three", 3))
    two, three = list(ShardReader(tmp_path / "two")), list(ShardReader(tmp_path / "three"))
    assert [sample.caption for sample in two] == ["a large red circle"] * 2
    for one, other in zip(two, three, strict=False):
        assert one.video is not None
        assert one.video.shape == (1, 64, 64, 3)
        assert np.array_equal(one.video, other.video)
    assert not np.array_equal(three[0].video, three[1].video)


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    def stop(done: int, total: int, counts: Counts) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(wish(tmp_path / "stopped"), stop)
    assert list((tmp_path / "stopped").rglob("*"))
    again, whole = (prepare(wish(tmp_path / name)).manifest for name in ("stopped", "whole"))
    assert again.content_hash == whole.content_hash


def test_a_class_without_words_and_numbers_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.prompt names no class"):
        ClassImages().jobs(Cut(fps=8, num_frames=1, size_px=64))
    with pytest.raises(ValueError, match="num_images and num_steps of at least 1, got 0 and 50"):
        ClassImages(prompt="a", num_images=0)
    with pytest.raises(ValueError, match="guidance must be a number"):
        ClassImages(prompt="a", guidance=-1)


def test_pictures_are_as_large_as_the_image_model_draws_them(tmp_path: Path, tiny: ImageModel) -> None:
    """So that they go beside the subject's, whose size is the image model's, too."""
    save(tiny, tmp_path / "model")
    assert ClassImages(prompt="a", backbone=str(tmp_path / "model")).usual()[0] == tiny.size_px
    assert ClassImages(prompt="a", backbone=str(tmp_path)).usual()[0] == 512
    assert ClassImages(prompt="a").usual()[0] == 64


@pytest.fixture
def vgen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a command in this process and an empty folder; gives its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vgen"])
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", sys.modules["__main__"].__spec__)
    for name in ("HYDRA_FULL_ERROR", "VGEN_RUN_STAMP", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "1")
    return lambda verb, *arguments: cli.run(verb, list(arguments))


def test_a_subject_is_learnt_drawn_and_exported_by_the_command_line(
    vgen: Callable[..., int], tmp_path: Path
) -> None:
    """From pictures to a low-rank file of other programs, which goes beside the shipped motion module."""
    (tmp_path / "dog").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "dog" / f"{i}.png")
    told = ["data.images=dog", "data.prompt=a sks circle", "method.prior_weight=0"]
    few = ["trainer=cpu", "trainer.max_steps=1", "trainer.num_threads=1", "run.name=dog"]
    drawn = ["callbacks.prompts=[a sks circle]", "callbacks.every_steps=1", "callbacks.sampling.num_steps=1"]
    assert vgen("train", "experiment=dreambooth_lora", *told, *few, *drawn) == cli.DONE
    assert (tmp_path / "runs/dog/samples/step-0000001.png").is_file()
    assert vgen("export", "run=runs/dog", "to=kohya", "out=dog.safetensors") == cli.DONE
    small = ["sampling.num_steps=1", "sampling.num_frames=2"]
    words = ["prompt=a sks circle", "loras.dog.file=dog.safetensors", "out=out"]
    assert vgen("generate", *words, *small) == cli.DONE
    assert list((tmp_path / "out").glob("*.png"))
    still = ["adapter=none", "backbone=toybox", "sampling.num_frames=1", "sampling.num_steps=1"]
    assert vgen("generate", "prompt=a sks circle", *still, "out=still") == cli.DONE
    assert list((tmp_path / "still").glob("*.png"))


def test_words_and_layers_of_both_branches_are_learnt_and_drawn_by_the_command_line(
    vgen: Callable[..., int], tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    told = ["data.video=one.png", "data.prompt=a large <subject>", "method.init=circle"]
    few = ["trainer=cpu", "trainer.max_steps=1", "trainer.num_threads=1", "run.name=words"]
    assert vgen("train", "experiment=dreamartist_plus_plus", *told, *few) == cli.DONE
    small = ["sampling.num_steps=1", "sampling.num_frames=2", "out=out"]
    above = ["adapter=shipped", "stack.words.file=runs/words"]
    assert vgen("generate", "prompt=a large <subject> moves right", *above, *small) == cli.DONE
    assert list((tmp_path / "out").glob("*.png"))
