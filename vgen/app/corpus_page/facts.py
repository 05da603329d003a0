"""What a folder of shards holds, out of its manifest, its ledger and random samples of its clips.

A corpus of any size costs the same few seconds: texts of at most ``MOST_TOLD`` clips are read, and the pixels
of at most ``MOST_SEEN``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from vgen.data.fields import EVERYTHING, Needs
from vgen.data.ledger import Rejection, read_ledger
from vgen.data.manifest import Manifest
from vgen.data.reader import ShardReader
from vgen.data.sample import Sample

MOST_TOLD, MOST_SEEN, MOST_SHOWN = 4096, 48, 12
MOST_BARS = 12
EXAMPLES = 3
"""Of each reason of the ledger."""
_TEXTS = Needs(required=frozenset(), optional=frozenset({"caption"}))
_SHOWN = Needs(required=frozenset(), optional=EVERYTHING.optional - {"latents"} | {"video", "caption"})


@dataclass(frozen=True, slots=True)
class Bar:
    """``height`` is a share of the tallest."""

    said: str
    count: int
    height: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """``middle`` is the median in words; ``num`` clips were looked at, of which all have the value."""

    title: str
    about: str
    bars: list[Bar]
    middle: str
    num: int


@dataclass(frozen=True, slots=True)
class Why:
    """A reason of the ledger, how many rows it took, and the first of them."""

    reason: str
    count: int
    first: list[Rejection]


@dataclass(frozen=True, slots=True)
class Facts:
    """``clips`` are random ones, the same for the same folder; ``num_told`` is of how many texts were
    read."""

    manifest: Manifest
    clips: list[Sample]
    histograms: list[Histogram]
    whys: list[Why]
    num_told: int


def facts_of(folder: Path, seed: int = 0) -> Facts:
    """Raises ValueError where the folder is not whole, as a reader of its shards does."""
    rng = np.random.default_rng(seed)
    with ShardReader(folder, _TEXTS) as texts, texts.reading(_SHOWN) as pictures:
        order = rng.permutation(len(texts))
        told = [texts[int(i)] for i in np.sort(order[:MOST_TOLD])]
        seen = [pictures[int(i)] for i in order[:MOST_SEEN]]
    known = [
        _of(told, "length", "seconds of a clip", _seconds),
        _of(told, "frames", "of a clip", _frames),
        _of(told, "size", "short side of the source in pixels", _short_side),
        _of(told, "frame rate", "frames a second of the source", _source_fps),
        _of(told, "caption", "words", _words),
        _of(seen, "motion", "mean change of a pixel from frame to frame, of 255", _motion),
    ]
    histograms = [one for one in known if one is not None]
    return Facts(texts.manifest, seen[:MOST_SHOWN], histograms, _whys(folder), len(told))


def _of(
    samples: Sequence[Sample], title: str, about: str, value: Callable[[Sample], float | None]
) -> Histogram | None:
    """None where no sample has the value."""
    values = [found for sample in samples if (found := value(sample)) is not None]
    return histogram(title, about, values) if values else None


def histogram(title: str, about: str, values: Sequence[float]) -> Histogram:
    """A bar for each value where there are few, else bars of one width from the least to the greatest."""
    array = np.asarray(values, float)
    each, counts = np.unique(array, return_counts=True)
    said = [_said(one) for one in each]
    if len(each) > MOST_BARS:
        whole = bool((array == array.round()).all())
        counts, edges = np.histogram(array, _edges(each[0], each[-1], whole))
        said = [_between(low, high, whole) for low, high in pairwise(edges)]
    top = counts.max()
    bars = [Bar(word, int(n), float(n / top)) for word, n in zip(said, counts, strict=True)]
    return Histogram(title, about, bars, _said(float(np.median(array))), len(array))


def _edges(low: float, high: float, whole: bool) -> np.ndarray:
    """Of whole numbers bars hold as many of them each."""
    if not whole:
        return np.linspace(low, high, MOST_BARS + 1)
    step = int(np.ceil((high - low + 1) / MOST_BARS))
    return np.arange(low, high + step + 1, step)


def _between(low: float, high: float, whole: bool) -> str:
    if whole:
        return _said(low) if high - low == 1 else f"{_said(low)} to {_said(high - 1)}"
    return f"{_said(low)} to {_said(high)}"


def _said(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:.3g}"


def _frames(sample: Sample) -> float | None:
    return _number(sample.metadata, "num_frames")


def _seconds(sample: Sample) -> float | None:
    frames, fps = _frames(sample), _number(sample.metadata, "fps")
    return round(frames / fps, 3) if frames and fps else None


def _short_side(sample: Sample) -> float | None:
    sides = [_number(sample.metadata, f"source_{side}_px") for side in ("width", "height")]
    known = [side for side in sides if side]
    return min(known) if len(known) == len(sides) else None


def _source_fps(sample: Sample) -> float | None:
    return _number(sample.metadata, "source_fps") or None  # 0 where a file does not say it


def _words(sample: Sample) -> float | None:
    return None if sample.caption is None else float(len(sample.caption.split()))


def _motion(sample: Sample) -> float | None:
    if sample.video is None or len(sample.video) < 2:
        return None
    return float(np.abs(np.diff(sample.video.astype(np.int16), axis=0)).mean())


def _number(metadata: dict[str, Any], key: str) -> float | None:
    """What a column of a person's own may have in its place is no number."""
    value = metadata.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whys(folder: Path) -> list[Why]:
    """The most frequent first."""
    groups: dict[str, list[Rejection]] = {}
    for rejection in read_ledger(folder):
        groups.setdefault(rejection.reason.value, []).append(rejection)
    found = [Why(reason, len(rows), rows[:EXAMPLES]) for reason, rows in groups.items()]
    return sorted(found, key=lambda why: -why.count)
