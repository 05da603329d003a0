"""Which clips are held out: whole videos, so that no clip is judged by another of its own video."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Rows of a corpus that train and that validate, and a sentence for log and card."""

    train: Sequence[int]
    val: Sequence[int]
    told: str


def source_of(metadata: dict[str, Any], key: str) -> str:
    """The video that a sample was cut from, by its metadata. Scenes of the toybox are drawn one by one, and
    what names no source is its own."""
    source = metadata.get("source")
    return source if isinstance(source, str) and "scene" not in metadata else key


def held_out(sources: Sequence[str], num_val: int, seed: int) -> HeldOut:
    """Splits the rows of a corpus, of which ``sources`` names the videos; ``num_val`` is less than there are.

    Videos come in an order that hangs on ``seed`` and their names alone, and each that still fits into
    ``num_val`` clips is held out whole. Where every video is longer than that, the shortest is, and the first
    ``num_val`` of its clips validate. Where that one is more than half of the corpus the last clips are held
    out, though videos of theirs train.
    """
    videos = _videos(sources, seed)
    chosen = _fitting(videos, num_val) or [min(videos, key=len)]
    away = sorted(row for video in chosen for row in video)
    if len(away) > max(num_val, len(sources) // 2):
        return _last(len(sources), num_val, len(videos))
    gone = set(away)
    kept, unused = min(num_val, len(away)), max(0, len(away) - num_val)
    told = f"held out: {kept} clip{'s' * (kept != 1)} of {len(chosen)} of {len(videos)} videos"
    more = "1 more clip of theirs is" if unused == 1 else f"{unused} more clips of theirs are"
    told += f", {more} left out" * (unused > 0)
    train = [row for row in range(len(sources)) if row not in gone]
    told += f" (data.val_seed={seed})"
    return HeldOut(train, away[:num_val], told + _if_most(len(away), len(train)))


def _videos(sources: Sequence[str], seed: int) -> list[list[int]]:
    """The rows of each video, in the seed's order."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, source in enumerate(sources):
        rows[source].append(row)
    return [rows[name] for name in sorted(rows, key=lambda name: _place(name, seed))]


def _place(name: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()


def _fitting(videos: Sequence[list[int]], num_val: int) -> list[list[int]]:
    chosen: list[list[int]] = []
    left = num_val
    for video in videos:
        if len(video) <= left:
            chosen.append(video)
            left -= len(video)
    return chosen


def _last(num_clips: int, num_val: int, num_videos: int) -> HeldOut:
    first = num_clips - num_val
    videos = "1 video" if num_videos == 1 else f"{num_videos} videos"
    told = (
        f"held out: the last {num_val} of {num_clips} clips, of videos that train too, since {videos} cannot "
        "be split by video; data.val_path names others"
    )
    return HeldOut(range(first), range(first, num_clips), told + _if_most(num_val, first))


def _if_most(num_away: int, num_train: int) -> str:
    """What is said where fewer clips train than not."""
    few = f"; fewer are left to learn from, {num_train}: lower data.val_clips"
    return few if num_train < num_away else ""
