"""What a latent cache holds, however its clips were grouped to be encoded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vgen.backbones.blank import Blank, blank
from vgen.backbones.conditioning import Prepared
from vgen.data import encoder as encoding
from vgen.data.cache import LatentCache
from vgen.data.cache_building import Builders
from vgen.data.clips import Clips, Window
from vgen.data.encoder import ImageModelEncoder
from vgen.data.reader import ShardReader
from vgen.data.sample import Sample

CPU = torch.device("cpu")


def clips_of(shards: Path) -> Clips:
    reader = ShardReader(shards)
    return Clips(reader, Window(num_frames=8), 0, range(1, len(reader)))


def encoder() -> ImageModelEncoder:
    return ImageModelEncoder(blank(Blank.TOYBOX, seed=0).freeze())


def built(root: Path, shards: Path) -> tuple[LatentCache, Clips]:
    clips = clips_of(shards)
    return LatentCache.open_or_build(root, "train", clips, encoder(), Builders(device=CPU)), clips


@pytest.mark.parametrize(
    "num_pixels", [1, 3 * 8 * 64 * 64, 2**23]
)  # a clip alone, three at a time, all of them
def test_a_cache_holds_every_frame_and_text(
    tmp_path: Path, toy_shards: Path, monkeypatch: pytest.MonkeyPatch, num_pixels: int
) -> None:
    monkeypatch.setitem(encoding._PIXELS_AT_ONCE, "cpu", num_pixels)
    cached, clips = built(tmp_path, toy_shards)
    model = blank(Blank.TOYBOX, seed=0).freeze()
    samples = [clips.reader[row] for row in clips.rows]
    (part,) = cached.parts
    assert part.ids == [s.id for s in samples]
    assert part.captions == [s.caption for s in samples]
    assert part.starts == [0, *np.cumsum([len(s.video) for s in samples]).tolist()]
    for i in (0, len(samples) - 1):
        video = torch.from_numpy(samples[i].video).permute(0, 3, 1, 2).float()[None] / 127.5 - 1
        with torch.no_grad():
            latents, text = model.encode(video)[0], model.encode_text([samples[i].caption]).tokens[0]
        np.testing.assert_allclose(
            part.arrays["latents"][part.starts[i] : part.starts[i + 1]], latents, atol=5e-3, rtol=2e-3
        )
        np.testing.assert_allclose(part.arrays["text"][i], text, atol=5e-3, rtol=2e-3)
    assert len(part.arrays["latents"]) == part.starts[-1]
    assert len(part.arrays["text"]) == len(samples)


def test_a_build_that_fails_leaves_no_cache_that_looks_whole(
    tmp_path: Path, toy_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(encoding._PIXELS_AT_ONCE, "cpu", 1)
    read = ShardReader.__getitem__

    def torn(reader: ShardReader, i: int) -> Sample:
        if i == 7:
            raise OSError("Input/output error")
        return read(reader, i)

    monkeypatch.setattr(ShardReader, "__getitem__", torn)
    with pytest.raises(OSError, match="Input/output error"):
        built(tmp_path, toy_shards)
    (parts,) = tmp_path.iterdir()
    assert [p.suffix for p in parts.iterdir()] == [".tmp"]
    monkeypatch.undo()
    whole, _ = built(tmp_path, toy_shards)
    assert [p.name for p in tmp_path.iterdir()] == [whole.folder.name]


def test_three_processes_write_what_one_does(tmp_path: Path, toy_shards: Path) -> None:
    alone, _ = built(tmp_path / "alone", toy_shards)
    encoders = [encoder() for _ in range(3)]

    def one(rank: int) -> LatentCache:
        builders = Builders(device=CPU, rank=rank, num=3, wait_seconds=60.0)
        own = clips_of(toy_shards)  # a reader belongs to one thread
        return LatentCache.open_or_build(tmp_path / "together", "train", own, encoders[rank], builders)

    with ThreadPoolExecutor(3) as pool:
        together = [*pool.map(one, range(3))]
    for cache in together:
        assert len(cache.parts) == 3
        assert len(cache) == len(alone)
        assert {cache[0, i].metadata["fps"] for i in range(len(alone))} == {8.0}
        for i in range(len(alone)):
            ours, theirs = cache[1, i], alone[1, i]
            assert (ours.key, ours.caption, ours.at.tolist()) == (
                theirs.key,
                theirs.caption,
                theirs.at.tolist(),
            )
            for name, value in theirs.fields.items():
                np.testing.assert_allclose(ours.fields[name], value, atol=5e-3, rtol=2e-3)


def test_a_part_that_is_there_is_not_encoded_again(tmp_path: Path, toy_shards: Path) -> None:
    """Of two processes the first was killed: the second's part stays, and is taken when both are started
    anew."""
    clips = clips_of(toy_shards)

    def start(rank: int, encoder: ImageModelEncoder, wait_seconds: float) -> LatentCache:
        builders = Builders(device=CPU, rank=rank, num=2, wait_seconds=wait_seconds)
        return LatentCache.open_or_build(tmp_path, "train", clips, encoder, builders)

    with pytest.raises(ValueError, match="was to be written by rank 0 and is not there after"):
        start(1, encoder(), 0.01)
    counting = encoder()
    seen: list[str] = []
    prepare = counting.prepare

    def counted(fields: dict[str, Any], device: torch.device) -> Prepared:
        seen.extend(fields["caption"])
        return prepare(fields, device)

    counting.prepare = counted  # type: ignore[method-assign]
    cache = start(0, counting, 60.0)
    assert len(seen) == len(clips) // 2
    assert len(cache) == len(clips)


def test_what_one_process_wrote_before_there_were_parts_is_read(tmp_path: Path, toy_shards: Path) -> None:
    cache, clips = built(tmp_path, toy_shards)
    for path in (cache.folder / "part-00000").iterdir():
        path.replace(cache.folder / path.name)
    again = LatentCache(cache.folder, clips)
    assert len(again) == len(cache)
    assert np.array_equal(again[0, 2].fields["latents"], cache[0, 2].fields["latents"])
