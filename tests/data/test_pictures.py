"""Folders of pictures as a source, what a subject asks of them, and two sets of clips in one training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vgen.data.clips import Clips, Window
from vgen.data.fields import Needs
from vgen.data.ledger import read_ledger
from vgen.data.mixture import PRIOR, Mixture, refuse_other_size
from vgen.data.pictures import PictureSource, places, read_pictures
from vgen.data.prepare import Prepare, prepare
from vgen.data.reader import ShardReader
from vgen.data.subject import Subject
from vgen.training.corpus import Corpus, Split, split
from vgen.training.loader import loaders

PROMPT = "a photo of sks dog"


def picture(path: Path, width: int = 64, height: int = 64, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def dog(tmp_path: Path) -> Path:
    for i in range(4):
        picture(tmp_path / "dog" / f"{i}.png", seed=i)
    return tmp_path / "dog"


def test_a_folder_becomes_stills_with_captions_out_of_a_template(dog: Path, tmp_path: Path) -> None:
    """Shards hold the pixels as they were; the training reads the same from the folder itself."""
    (dog / "0.txt").write_text("on a  beach\n")
    for i in range(1, 4):
        (dog / f"{i}.txt").write_text("in snow")
    prompt = "a photo of sks {folder}, {text}"
    wish = Prepare(
        data=PictureSource(path=str(dog), prompt=prompt),
        out=str(tmp_path / "out"),
        size_px=64,
        num_processes=1,
    )
    assert prepare(wish).manifest.counts["clips"] == 4
    shards, folder = ShardReader(tmp_path / "out"), read_pictures(str(dog), prompt, 64)
    assert [sample.caption for sample in shards] == [folder[i].caption for i in range(4)]
    assert folder[0].caption == "a photo of sks dog, on a beach"
    for i, sample in enumerate(shards):
        assert sample.id == folder[i].id
        assert np.array_equal(sample.video, folder[i].video)
        assert np.array_equal(sample.video[0], pixels_of(dog / f"{i}.png"))
    assert not prepare(wish).fresh


def test_a_long_picture_is_cut_at_places_of_its_long_side(tmp_path: Path) -> None:
    path = picture(tmp_path / "wide" / "a.png", width=192)
    picture(tmp_path / "wide" / "b.png")
    pixels = pixels_of(path)
    found = read_pictures(str(tmp_path / "wide"), "a", 64, num_crops=3)
    assert len(found) == 4  # the square one has one place
    for i in range(3):
        video = found[i].video
        assert video is not None
        assert np.array_equal(video[0], pixels[:, 64 * i : 64 * (i + 1)])
    assert places(Image.fromarray(pixels), 1) == [0.5]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((20, 20), r"0.png: too small \(it has 20 x 20 px, and 64 px are learnt from sides of 32 or more"),
        (None, r"0.png: corrupt \(it is damaged, or no picture"),
    ],
)
def test_pictures_that_nothing_is_learnt_from_are_named(
    dog: Path, tmp_path: Path, size: tuple[int, int] | None, message: str
) -> None:
    if size is None:
        (dog / "0.png").write_bytes(b"no picture")
    else:
        picture(dog / "0.png", *size)
    with pytest.raises(ValueError, match=message):
        read_pictures(str(dog), "a", 64)
    source = PictureSource(path=str(dog), prompt="a")
    prepare(Prepare(data=source, out=str(tmp_path / "out"), size_px=64, num_processes=1))
    assert len(read_ledger(tmp_path / "out")) == 1
    assert len(ShardReader(tmp_path / "out")) == 3


def test_folders_and_captions_that_say_nothing_are_refused(dog: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no picture; looked for \.png"):
        read_pictures(str(tmp_path / "empty"), "a", 64)
    with pytest.raises(ValueError, match=r"data\.images=nowhere is no folder"):
        read_pictures("nowhere", "a", 64)
    with pytest.raises(ValueError, match=r"missing caption \(no text in 0\.txt beside it; write one"):
        read_pictures(str(dog), "", 64)
    with pytest.raises(ValueError, match=r"asks for \{name\}; a picture has \{text\}"):
        PictureSource(prompt="a {name}")
    with pytest.raises(ValueError, match=r"is no template"):
        PictureSource(prompt="a {")
    with pytest.raises(ValueError, match=r"data\.num_crops must be at least 1, got 0"):
        PictureSource(num_crops=0)


def corpus(dog: Path, **more: object) -> Corpus:
    return replace(Corpus(images=str(dog), prompt=PROMPT, window=Window(num_frames=1), batch_size=2), **more)


def test_a_subject_asks_for_pictures_enough_and_for_its_identifier(dog: Path) -> None:
    for i in range(1, 4):
        (dog / f"{i}.png").unlink()
    with pytest.raises(ValueError, match=r"dog has 1 picture, and a subject is learnt from 3 or more"):
        split(corpus(dog), 0, 64, subject=Subject(least=3))
    wide = corpus(dog, num_crops=3)
    picture(dog / "0.png", width=192)
    with pytest.raises(ValueError, match="has 1 picture"):  # cuts of one picture are one picture
        split(wide, 0, 64, subject=Subject(least=3))
    plain = corpus(dog, prompt="a photo of a dog")
    with pytest.raises(ValueError, match=r"1 of 1 captions of data\.images=\S+ lack the identifier 'sks'"):
        split(plain, 0, 64, subject=Subject(identifier="sks"))
    with pytest.raises(ValueError, match="are both given; train on one of them"):
        split(corpus(dog, path="data/clips"), 0, 64)


@pytest.fixture
def dogs(tmp_path: Path) -> Path:
    """Seven pictures of the class."""
    for i in range(7):
        picture(tmp_path / "class" / f"{i}.png", seed=100 + i)
    source = PictureSource(path=str(tmp_path / "class"), prompt="a photo of a dog")
    prepare(Prepare(data=source, out=str(tmp_path / "dogs"), size_px=64, num_processes=1))
    return tmp_path / "dogs"


def test_a_prior_is_wanted_and_given_or_neither(dog: Path, dogs: Path) -> None:
    wants = Subject(identifier="sks", prior=True)
    with pytest.raises(ValueError, match=r"data\.prior_path names none; draw them once with 'vgen prepare"):
        split(corpus(dog), 0, 64, subject=wants)
    with pytest.raises(ValueError, match="is given and nothing here preserves a prior"):
        split(corpus(dog, prior_path=str(dogs)), 0, 64)
    with pytest.raises(ValueError, match=r"data\.prior_path=gone: gone is no folder"):
        split(corpus(dog, prior_path="gone"), 0, 64, subject=wants)
    both = corpus(dog, prompt="a photo of dog", prior_path=str(dogs))
    with pytest.raises(ValueError, match=r"7 captions of the class pictures of data\.prior_path=\S+ say"):
        split(both, 0, 64, subject=Subject(identifier="dog", prior=True))


def parts_of(dog: Path, dogs: Path, size_px: int = 64) -> Split:
    wish = corpus(dog, prior_path=str(dogs))
    return split(wish, 0, size_px, Needs(), Subject(identifier="sks", prior=True))


def test_every_batch_holds_as_many_of_the_prior_in_an_order_that_resumes(dog: Path, dogs: Path) -> None:
    """Law: what a run sees after ``consumed`` clips is what an undisturbed one sees there."""
    parts, wish = parts_of(dog, dogs), corpus(dog, prior_path=str(dogs))

    def seen(consumed: int) -> list[list[tuple[str, int]]]:
        train, _ = loaders(parts, wish, 0, num_draws=28, consumed=consumed, rank=0, world_size=1)
        batches = list(train)
        for batch in batches:
            assert batch.fields[PRIOR].tolist() == [False, False, True, True]
            assert batch.captions == [PROMPT] * 2 + ["a photo of a dog"] * 2
            assert batch.present == {}
            assert batch.video.dtype is torch.uint8
        return [list(batch.keys) for batch in batches]

    whole = seen(0)
    assert len(whole) == 14
    assert seen(10) == whole[5:]
    prior = [key for batch in whole for key in batch if key[0].startswith("prior/")]
    assert len({key for key, epoch in prior if epoch == 0}) == 7  # each once before any comes again
    assert len(set(prior)) == len(prior)
    held = next(iter(loaders(parts, wish, 0, 28, 0, 0, 1)[1]))
    assert PRIOR not in held.fields


def test_ranks_share_what_one_process_would_see(dog: Path, dogs: Path) -> None:
    """Law: every global batch holds the same clips on any number of processes."""
    parts, wish = parts_of(dog, dogs), corpus(dog, prior_path=str(dogs))

    def seen(size: int, world: int) -> list[list[tuple[str, int]]]:
        part = replace(wish, batch_size=size)
        ranks = [loaders(parts, part, 0, 12, 0, rank, world)[0] for rank in range(world)]
        return [sorted(key for batch in step for key in batch.keys) for step in zip(*ranks, strict=True)]

    assert seen(2, 1) == seen(1, 2)


def test_clips_of_two_sizes_are_refused(dog: Path, dogs: Path) -> None:
    parts = parts_of(dog, dogs, size_px=32)
    assert isinstance(parts.prior, Clips)
    both = Mixture(parts.train, parts.prior)
    assert len(both) == 11
    with pytest.raises(ValueError, match=r"1 frames of 64 x 64 px, the subject's 1 frames of 32 x 32 px"):
        refuse_other_size(parts.train[0, 0], parts.prior[0, 0], "dogs")
