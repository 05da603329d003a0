"""The page: one file that opens by double click, asks no network for anything and runs no script."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vgen.app.corpus_page.facts import Facts, facts_of
from vgen.app.templates import environment
from vgen.conditions.pictures import picture_of
from vgen.data.clip_files import enlarged
from vgen.data.fields import FIELDS
from vgen.data.files import write_whole
from vgen.data.manifest import Manifest
from vgen.data.mp4 import encode_mp4
from vgen.data.sample import Sample

PAGE = "corpus.html"
LEAST_PX, MOST_PX = 128, 256
CRF = 26
_ASIDE = ("fields", "shard_megabytes")
"""Settings that are told elsewhere, or decide nothing that a person sees."""


@dataclass(frozen=True, slots=True)
class Panel:
    """``kind`` is video or picture, ``source`` the file itself as a data address."""

    title: str
    kind: str
    source: str


@dataclass(frozen=True, slots=True)
class Shown:
    key: str
    caption: str | None
    panels: list[Panel]


def write_page(folder: Path, seed: int = 0) -> Path:
    """``folder/corpus.html`` of a folder of shards; one that is there is replaced."""
    facts = facts_of(folder, seed)
    html = (
        environment("vgen.app.corpus_page", "vgen.app.judging")
        .get_template("corpus.html")
        .render(
            name=folder.resolve().name,
            facts=facts,
            counts=facts.manifest.counts,
            clips=[_shown(sample) for sample in facts.clips],
            found_by=facts.manifest.settings.get("fields", {}),
            settings=_settings(facts.manifest),
            sampled=_sampled(facts),
        )
    )
    write_whole(folder / PAGE, html.encode("utf-8", "replace"))
    return folder / PAGE


def _settings(manifest: Manifest) -> dict[str, str]:
    told = {key: value for key, value in manifest.settings.items() if key not in _ASIDE}
    return {key: str(value) for key, value in told.items() if value is not None}


def _sampled(facts: Facts) -> str:
    """Of how many clips the histograms speak."""
    clips = facts.manifest.counts["clips"]
    if facts.num_told == clips:
        return f"Of all {clips:,} clips; motion of those that were decoded for this page."
    return f"Of {facts.num_told:,} of {clips:,} clips by chance; motion of those that were decoded."


def _shown(sample: Sample) -> Shown:
    fps = float(sample.metadata.get("fps") or 8.0)
    panels = [] if sample.video is None else [_panel("video", sample.video, fps)]
    panels += [_panel(name, _pictures(sample, name), fps) for name in FIELDS if name in sample.fields]
    return Shown(sample.id, sample.caption, panels)


def _pictures(sample: Sample, name: str) -> np.ndarray:
    """A field as pictures uint8 f h w 3, of the video's size where it has none of its own."""
    stored = FIELDS[name].channels_first(sample.fields[name])
    size = (LEAST_PX, LEAST_PX) if sample.video is None else sample.video.shape[1:3]
    shown = picture_of(name, torch.from_numpy(stored.copy())[None], *size)[0]
    return (shown.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def _panel(title: str, video: np.ndarray, fps: float) -> Panel:
    """A clip of one frame is a picture."""
    fitted = enlarged(_reduced(video), LEAST_PX)
    even = np.ascontiguousarray(fitted[:, : fitted.shape[1] // 2 * 2, : fitted.shape[2] // 2 * 2])
    if len(even) > 1:
        return Panel(title, "video", _address("video/mp4", encode_mp4(even, fps, crf=CRF)))
    file = io.BytesIO()
    Image.fromarray(even[0]).save(file, "PNG")
    return Panel(title, "picture", _address("image/png", file.getvalue()))


def _reduced(video: np.ndarray) -> np.ndarray:
    """No side longer than a page needs."""
    height, width = video.shape[1:3]
    share = MOST_PX / max(height, width)
    if share >= 1:
        return video
    size = max(2, round(width * share)), max(2, round(height * share))
    return np.stack([np.asarray(Image.fromarray(frame).resize(size)) for frame in video])


def _address(kind: str, payload: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(payload).decode()}"
