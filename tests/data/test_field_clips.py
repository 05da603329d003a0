"""Fields from shards to batches: what is needed is checked before training, cut as the video is, cached as it
was."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vgen.backbones.blank import Blank, blank
from vgen.backbones.canny import canny
from vgen.backbones.conditioning import Prepared
from vgen.data.batch import Batch
from vgen.data.cache import LatentCache
from vgen.data.cache_building import Builders
from vgen.data.clips import Clips, Window
from vgen.data.collate import stacked
from vgen.data.encoder import ImageModelEncoder
from vgen.data.fields import Needs
from vgen.data.manifest import Manifest
from vgen.data.one_clip import OneClip
from vgen.data.reader import ShardReader
from vgen.data.sample import Encoding, Sample, Video, pack
from vgen.data.writer import ShardWriter
from vgen.training.corpus import Corpus, split
from vgen.training.loader import loaders

F, SIDE = 6, 32
USUAL = frozenset({"caption", "video"})
ALL = Needs(USUAL | {"pose", "flow", "depth", "mask", "reference"})


def needs(*names: str, optional: tuple[str, ...] = ()) -> Needs:
    return Needs(USUAL | set(names), frozenset(optional))


def one(i: int) -> Sample:
    """A sample whose video and fields tell their frames: frame k is k in all of them; one person more in each
    sample."""

    def frames(*shape: int, dtype: type = np.float32) -> np.ndarray:
        return np.stack([np.full(shape, k, dtype) for k in range(F)])

    pose = np.random.default_rng(i).random((F, i + 1, 17, 3), dtype=np.float32)
    video = frames(SIDE, SIDE, 3, dtype=np.uint8)
    video[:, :, : SIDE // 2] += 100
    fields = {
        "pose": pose,
        "flow": frames(SIDE, SIDE, 2)[:-1],
        "depth": frames(SIDE, SIDE),
        "mask": np.full((1, SIDE, SIDE), i, np.uint8),
        "reference": np.full((1, SIDE, SIDE, 3), i, np.uint8),
    }
    return Sample(f"s{i}", video, f"caption {i}", {"fps": 8.0}, fields)


Change = Callable[[int, dict[str, bytes]], None]


@pytest.fixture
def shards(tmp_path: Path) -> Callable[..., Path]:
    """Writes five samples, their members perhaps changed."""

    def write(change: Change = lambda i, members: None) -> Path:
        with ShardWriter(tmp_path, 200_000) as writer:
            for i in range(5):
                members = pack(one(i), Encoding(video=Video.npy))
                change(i, members)
                writer.write(f"s{i}", members)
        Manifest(
            source={"listing": ""}, settings={}, counts={}, shards=writer.shards, vgen_version="0"
        ).write(tmp_path)
        return tmp_path

    return write


def clips(folder: Path, wanted: Needs, **window: Any) -> Clips:
    return Clips(ShardReader(folder), Window(**{"num_frames": 3} | window), 0, range(5), wanted)


def test_clips_know_their_frames_and_cut_every_field_to_them(shards) -> None:
    data = clips(shards(), ALL)
    starts = set()
    for epoch in range(4):
        clip = data[epoch, 2]
        starts.add(int(clip.at[0]))
        assert clip.at.dtype == np.int64
        assert (clip.at == clip.at[0] + np.arange(3)).all()
        assert clip.fields["video"].shape == (3, 3, SIDE, SIDE)
        assert clip.fields["video"][:, 0, 0, -1].tolist() == clip.at.tolist()
        assert clip.fields["depth"][:, 0, 0].tolist() == clip.at.tolist()
        assert clip.fields["flow"].shape == (2, 2, SIDE, SIDE)
        assert clip.fields["flow"][:, 0, 0, 0].tolist() == clip.at[:-1].tolist()
        assert np.array_equal(clip.fields["pose"], one(2).fields["pose"][clip.at])
        assert clip.fields["mask"].shape == (3, SIDE, SIDE)  # one picture for all frames
        assert clip.fields["reference"].shape == (1, 3, SIDE, SIDE)
        assert clip.per_frame == {"video", "pose", "flow", "depth", "mask"}
    assert len(starts) > 1


def test_mirrored_clips_mirror_their_fields(shards) -> None:
    folder = shards()
    plain, turned = clips(folder, ALL), clips(folder, ALL, flip=True)
    seen = set()
    for epoch in range(8):
        a, b = plain[epoch, 0], turned[epoch, 0]
        mirror = not np.array_equal(a.fields["video"], b.fields["video"])
        seen.add(mirror)
        if mirror:
            assert np.array_equal(a.fields["video"][..., ::-1], b.fields["video"])
            assert np.array_equal(a.fields["depth"][..., ::-1], b.fields["depth"])
            assert np.array_equal(a.fields["flow"][:, 0], -b.fields["flow"][:, 0])
            assert np.array_equal(1 - a.fields["pose"][:, :, 1, 0], b.fields["pose"][:, :, 2, 0])
    assert seen == {True, False}


def batches(folder: Path, wanted: Needs, **window: Any) -> list[Batch]:
    corpus = Corpus(path=str(folder), window=Window(**{"num_frames": 4} | window), batch_size=2, val_clips=1)
    train, _ = loaders(
        split(corpus, 0, 64, wanted), corpus, seed=0, num_draws=12, consumed=0, rank=0, world_size=1
    )
    return list(train)


def test_batches_stack_fields_and_coarse_ones_keep_every_second_frame(shards) -> None:
    folder = shards()
    wanted = needs("pose", "depth", "mask", "reference")
    fine = batches(folder, wanted)
    coarse = batches(folder, wanted, coarse_share=1.0)
    for a, b in zip(fine, coarse, strict=True):
        assert (a.at.shape, b.at.shape) == ((2, 4), (2, 2))
        assert torch.equal(a.at[:, ::2], b.at)
        assert torch.equal(a.video[:, ::2], b.video)
        for name in ("depth", "mask"):
            assert torch.equal(a.fields[name][:, ::2], b.fields[name])
        assert torch.equal(a.fields["reference"], b.fields["reference"])
        people = [int(key[0][1:]) + 1 for key in a.keys]
        assert a.fields["pose"].shape == (2, 4, max(people), 17, 3)
        there = ~a.fields["pose"].isnan().any(-1).any(-1).any(1)  # b p
        assert there.sum(1).tolist() == people
        assert not a.present


def test_an_optional_field_says_where_it_is(shards) -> None:
    def some_lack_depth(i: int, members: dict[str, bytes]) -> None:
        if i % 2:
            del members["depth.npy"]

    data = clips(shards(some_lack_depth), needs(optional=("depth", "edges")))
    fields, present = stacked([data[0, 0], data[0, 1]])
    assert set(fields) == {"video", "depth"}
    assert {name: there.tolist() for name, there in present.items()} == {"depth": [True, False]}
    assert not fields["depth"][1].any()


def test_shapes_that_differ_are_one_sentence(shards) -> None:
    def two(i: int, members: dict[str, bytes]) -> None:
        if i == 1:
            fields = {"reference": np.zeros((2, 8, 8, 3), np.uint8)}
            members.update(pack(replace(one(1), fields=fields), Encoding(video=Video.npy)))

    data = clips(shards(two), needs("reference"))
    with pytest.raises(
        ValueError, match=r"reference of sample 's1' is \(2, 3, 8, 8\) where another of its b"
    ):
        stacked([data[0, 0], data[0, 1]])


@pytest.mark.parametrize(
    ("member", "name", "wanted", "message"),
    [
        (
            "pose.npy",
            "pose",
            ALL,
            r"sample 's3' of .* has no pose \(\.pose\.npy or \.pose\.json\), which is required ",
        ),
        (
            "txt",
            "caption",
            needs(),
            r"sample 's3' of .* has no caption \(\.txt\), .* 2 of 5 samples lack; add it to the",
        ),
        ("npy", "video", needs(), r"sample 's3' of .* has no video \(\.npy or \.mp4\)"),
    ],
)
def test_what_is_required_and_missing_is_refused_before_training(
    shards, member: str, name: str, wanted: Needs, message: str
) -> None:
    def without(i: int, members: dict[str, bytes]) -> None:
        if i >= 3:
            del members[member]

    folder = shards(without)
    with pytest.raises(ValueError, match=message):
        clips(folder, wanted)
    with pytest.raises(ValueError, match=r"which is required and which [12] of 4 samples lack"):
        split(Corpus(path=str(folder), window=Window(num_frames=3), val_clips=1), 0, 64, wanted)
    rest = Needs(wanted.required - {name})
    assert len(clips(folder, rest)) == 5
    assert clips(folder, rest)[0, 4].caption == ("" if member == "txt" else "caption 4")


def test_what_cannot_be_cut_or_mirrored_is_refused_before_training(shards) -> None:
    folder = shards()
    for wanted, window, message in [
        (needs("flow"), {"stride_frames": 2}, "flow leads .* so it can't be cut at stride 2"),
        (needs(optional=("flow",)), {"coarse_share": 0.5}, "flow leads .* so it can't be cut at stride 2"),
        (needs(optional=("latents",)), {"flip": True}, "latents can't be mirrored"),
    ]:
        with pytest.raises(ValueError, match=message):
            clips(folder, wanted, **window)
    with pytest.raises(ValueError, match=r"a single clip has no depth and no mask|no mask and no depth"):
        Clips(OneClip(one(0).video, "", 8.0), Window(num_frames=3), 0, range(1), needs("mask", "depth"))


def test_of_a_single_clip_fields_are_given_or_found() -> None:
    """Edges are found in the clip; what is given stays as it is, and caches tell the two apart."""
    video, window = one(0).video, Window(num_frames=3)
    bare = OneClip(video, "", 8.0)
    found = bare.reading(needs("edges"))
    assert np.array_equal(found.sample.fields["edges"], canny(video))
    given = OneClip(video, "", 8.0, {"edges": np.zeros_like(video[..., 0])})
    assert given.reading(needs("edges")) is given
    assert len({one.content_hash for one in (bare, found, given)}) == 3
    clip = Clips(bare, window, 0, range(1), needs("edges"))[0, 0]
    assert clip.fields["edges"].shape == (3, *video.shape[1:3])


def test_what_nothing_reads_is_named_once(shards, caplog: pytest.LogCaptureFixture) -> None:
    def strange(i: int, members: dict[str, bytes]) -> None:
        members["foo.bin"] = b"?"
        if i == 1:
            members["mask.png"] = b"a second format, never opened"
        if i == 2:
            members["depth.npy"] = b"never opened, either"

    folder = shards(strange)
    with caplog.at_level(logging.INFO):
        assert len(batches(folder, needs("mask"))) == 6
    [line] = [r.getMessage() for r in caplog.records if "nothing here reads" in r.getMessage()]
    assert line.endswith("5 .depth.npy, 5 .flow.npy, 5 .foo.bin, 1 .mask.png, 5 .pose.npy, 5 .reference.npy")
    with pytest.raises(ValueError, match=r"shard .*\.tar: s2\.depth\.npy can't be read: "):
        clips(folder, needs("depth"))[0, 2]


def test_captions_alone_need_no_frames(shards) -> None:
    clip = clips(shards(), Needs(frozenset({"caption"})))[0, 1]
    assert (clip.caption, clip.fields, clip.at.tolist()) == ("caption 1", {}, [])


def cached(root: Path, data: Clips, encoder: Any) -> LatentCache:
    return LatentCache.open_or_build(root, "train", data, encoder, Builders(device=torch.device("cpu")))


def test_cached_fields_are_those_of_the_shards(shards, tmp_path: Path) -> None:
    data = clips(shards(), ALL)
    encoder = ImageModelEncoder(blank(Blank.TOYBOX, seed=0).freeze())
    cache = cached(tmp_path / "cache", data, encoder)
    assert sorted(cache.parts[0].arrays) == ["latents", "text"]
    for epoch in range(2):
        a, b = data[epoch, 1], cache[epoch, 1]
        assert (a.key, a.caption, a.at.tolist()) == (b.key, b.caption, b.at.tolist())
        assert set(b.fields) == {"latents", "text", "pose", "flow", "depth", "mask", "reference"}
        assert b.per_frame == {"latents", "pose", "flow", "depth", "mask"}
        assert b.fields["latents"].shape[0] == 3
        for name in ALL.required - USUAL:
            assert np.array_equal(a.fields[name], b.fields[name]), name


class Halved:
    """An encoder of depth, frame by frame, and of the words' number, clip by clip."""

    def fingerprint(self) -> str:
        return "halved"

    def prepare(self, fields: dict[str, Any], device: torch.device) -> Prepared:
        assert fields["video"].shape[2:] == (3, SIDE, SIDE)
        assert fields["mask"].shape[:2] == (len(fields["caption"]), F)
        words = torch.tensor([[len(text.split())] for text in fields["caption"]])
        return Prepared({"words": words}, {"depth": fields["depth"] / 2} if "depth" in fields else {})


def test_a_cache_holds_what_any_encoder_prepares(shards, tmp_path: Path) -> None:
    folder, wanted = shards(), needs("depth", "mask")
    data = clips(folder, wanted)
    cache = cached(tmp_path / "cache", data, Halved())
    a, b = data[3, 4], cache[3, 4]
    assert np.array_equal(a.fields["depth"] / 2, b.fields["depth"])
    assert b.fields["depth"].dtype == np.float16
    assert b.fields["words"].tolist() == [2]
    assert b.every(2).fields["depth"][:, 0, 0].tolist() == (a.at[::2] / 2).tolist()
    assert cached(tmp_path / "cache", data, Halved()).folder == cache.folder
    assert cached(tmp_path / "cache", clips(folder, ALL), Halved()).folder != cache.folder


def test_a_cache_of_what_some_lack_is_refused(shards, tmp_path: Path) -> None:
    def some_lack_depth(i: int, members: dict[str, bytes]) -> None:
        if i == 2:
            del members["depth.npy"]

    data = clips(shards(some_lack_depth), needs("mask", optional=("depth",)))
    with pytest.raises(
        ValueError, match=r"sample 's2' was prepared as words where those before it were as de"
    ):
        cached(tmp_path / "cache", data, Halved())
