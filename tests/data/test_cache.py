"""What a latent cache holds, however its clips were grouped to be encoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vgen.backbones.blank import Blank, blank
from vgen.data import cache
from vgen.data.cache import ImageModelEncoder, LatentCache
from vgen.data.clips import Clips, Window
from vgen.data.reader import ShardReader
from vgen.data.sample import Sample


def built(root: Path, shards: Path) -> tuple[LatentCache, Clips]:
    reader = ShardReader(shards)
    clips = Clips(reader, Window(num_frames=8), 0, range(1, len(reader)))
    model = blank(Blank.TOYBOX, seed=0).freeze()
    encoder = ImageModelEncoder(model)
    return LatentCache.open_or_build(root, "train", clips, encoder, torch.device("cpu"), build=True), clips


@pytest.mark.parametrize(
    "num_pixels", [1, 3 * 8 * 64 * 64, 2**23]
)  # a clip alone, three at a time, all of them
def test_a_cache_holds_every_frame_and_text(
    tmp_path: Path, toy_shards: Path, monkeypatch: pytest.MonkeyPatch, num_pixels: int
) -> None:
    monkeypatch.setitem(cache._PIXELS_AT_ONCE, "cpu", num_pixels)
    cached, clips = built(tmp_path, toy_shards)
    model = blank(Blank.TOYBOX, seed=0).freeze()
    samples = [clips.reader[row] for row in clips.rows]
    assert cached.ids == [s.id for s in samples]
    assert cached.captions == [s.caption for s in samples]
    assert cached.starts == [0, *np.cumsum([len(s.video) for s in samples]).tolist()]
    for i in (0, len(samples) - 1):
        video = torch.from_numpy(samples[i].video).permute(0, 3, 1, 2).float()[None] / 127.5 - 1
        with torch.no_grad():
            latents, text = model.encode(video)[0], model.encode_text([samples[i].caption]).tokens[0]
        np.testing.assert_allclose(
            cached.arrays["latents"][cached.starts[i] : cached.starts[i + 1]], latents, atol=5e-3, rtol=2e-3
        )
        np.testing.assert_allclose(cached.arrays["text"][i], text, atol=5e-3, rtol=2e-3)
    assert len(cached.arrays["latents"]) == cached.starts[-1]
    assert len(cached.arrays["text"]) == len(samples)


def test_a_build_that_fails_leaves_no_cache_that_looks_whole(
    tmp_path: Path, toy_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cache._PIXELS_AT_ONCE, "cpu", 1)
    read = ShardReader.__getitem__

    def torn(reader: ShardReader, i: int) -> Sample:
        if i == 7:
            raise OSError("Input/output error")
        return read(reader, i)

    monkeypatch.setattr(ShardReader, "__getitem__", torn)
    with pytest.raises(OSError, match="Input/output error"):
        built(tmp_path, toy_shards)
    assert [p.suffix for p in tmp_path.iterdir()] == [".tmp"]
