"""No clip is judged by another of its own video, and what cannot be split so is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vgen.data.clips import Window
from vgen.data.folder_source import FolderSource
from vgen.data.mp4 import encode_mp4
from vgen.data.prepare import Prepare, prepare
from vgen.data.reader import ShardReader
from vgen.training.corpus import Corpus, split
from vgen.training.held_out import HeldOut, held_out, source_of

MANY = [f"video {i % 12}" for i in range(40)]


def videos(split_: HeldOut, sources: list[str]) -> tuple[set[str], set[str]]:
    return {sources[row] for row in split_.train}, {sources[row] for row in split_.val}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("num_val", [1, 3, 7, 16, 30])
def test_no_video_trains_and_validates(num_val: int, seed: int) -> None:
    found = held_out(MANY, num_val, seed)
    train, val = videos(found, MANY)
    assert not train & val
    assert train | val == set(MANY)
    assert 1 <= len(found.val) <= num_val
    assert f"data.val_seed={seed}" in found.told


def test_the_choice_hangs_on_the_seed_and_on_names_alone() -> None:
    backwards = MANY[::-1]
    val = [videos(held_out(MANY, 7, seed), MANY)[1] for seed in range(4)]
    assert [videos(held_out(backwards, 7, seed), backwards)[1] for seed in range(4)] == val
    assert len({frozenset(chosen) for chosen in val}) > 1


@pytest.mark.parametrize("num_val", [1, 4, 9])
def test_samples_that_are_their_own_videos_are_held_out_to_the_number(num_val: int) -> None:
    found = held_out([str(i) for i in range(10)], num_val, 0)
    assert len(found.val) == num_val
    assert sorted([*found.train, *found.val]) == list(range(10))


def test_of_three_long_videos_the_shortest_is_held_out_whole() -> None:
    sources = ["a"] * 20 + ["b"] * 10 + ["c"] * 20
    found = held_out(sources, 4, 0)
    assert (list(found.val), videos(found, sources)[0]) == ([20, 21, 22, 23], {"a", "c"})
    assert "4 clips of 1 of 3 videos, 6 more clips of theirs are left out" in found.told


@pytest.mark.parametrize(
    ("sources", "few"), [(["a"] * 20, "1 video cannot"), (["a"] * 11 + ["b"] * 12, None)]
)
def test_few_videos(sources: list[str], few: str | None) -> None:
    found = held_out(sources, 4, 0)
    if few is None:
        assert videos(found, sources) == ({"b"}, {"a"})
    else:
        assert list(found.val) == [16, 17, 18, 19]
        assert few in found.told
        assert "of videos that train too" in found.told


def test_a_source_is_the_video_the_scene_or_the_sample_itself() -> None:
    assert source_of({"source": "a.mp4"}, "key") == "a.mp4"
    assert source_of({"source": "toybox seed 0", "scene": {}}, "key") == "key"
    assert source_of({}, "key") == "key"


def test_a_corpus_is_split_by_the_metadata_of_its_samples(tmp_path: Path) -> None:
    """Four videos, of each three clips."""
    for number in range(4):
        video = np.full((24, 64, 64, 3), 40 * number, np.uint8)
        path = tmp_path / "videos" / f"{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode_mp4(video, 8.0, 12))
        path.with_suffix(".txt").write_text("grey")
    out = tmp_path / "shards"
    source = FolderSource(path=str(tmp_path / "videos"))
    prepare(Prepare(data=source, out=str(out), num_frames=8, size_px=64, num_processes=1), lambda *_: None)
    parts = split(Corpus(path=str(out), val_clips=4, window=Window(num_frames=2)), 0, 64)
    reader = ShardReader(out)
    train, val = (
        {reader.metadata(row)["source"] for row in clips.rows} for clips in (parts.train, parts.val)
    )
    assert (len(parts.train), len(parts.val), len(train & val)) == (9, 3, 0)
    assert parts.told == "held out: 3 clips of 1 of 4 videos (data.val_seed=0)"


def test_more_held_out_than_learnt_from_is_said() -> None:
    videos = [f"{number}.mp4" for number in range(10)]
    assert held_out(videos, 5, 0).told == "held out: 5 clips of 5 of 10 videos (data.val_seed=0)"
    assert held_out(videos, 8, 0).told.endswith("; fewer are left to learn from, 2: lower data.val_clips")
    one = ["a.mp4"] * 10
    assert held_out(one, 8, 0).told.endswith("; fewer are left to learn from, 2: lower data.val_clips")
    assert "fewer" not in held_out(one, 5, 0).told
