"""Parts of a video that a listing names, each with its own caption: a row for each, or lists in one row."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vgen.spec import Choice


class SegmentUnit(Choice):
    """What start and end count."""

    SECONDS = "seconds"
    FRAMES = "frames"


@dataclass(frozen=True, slots=True)
class Segment:
    """From ``start`` to before ``end`` (None: the end of the video), in seconds after the first frame, or in
    frames of the file, counted from 0."""

    start: float = 0.0
    end: float | None = None
    unit: SegmentUnit = SegmentUnit.SECONDS

    def __post_init__(self) -> None:
        if not 0 <= self.start < math.inf:
            raise ValueError(f"a segment starts at 0 or later, got {self.start}")
        if self.end is not None and not self.start < self.end < math.inf:
            raise ValueError(f"a segment ends after its start, got {self.start:g} to {self.end:g}")
        if self.unit is SegmentUnit.FRAMES and any(x != round(x) for x in (self.start, self.end or 0)):
            raise ValueError(f"frames are whole numbers, got {self.start} to {self.end}")

    @property
    def key(self) -> str:
        """Tells segments of a video apart; the same wherever it stands in the listing."""
        scale = 1000 if self.unit is SegmentUnit.SECONDS else 1
        letter = "ms" if self.unit is SegmentUnit.SECONDS else "f"
        return f"{letter}{round(self.start * scale)}-{'' if self.end is None else round(self.end * scale)}"


def segments_of(
    caption: Any, start: Any, end: Any, unit: SegmentUnit, paired: bool
) -> list[tuple[Any, Segment]]:
    """Captions and segments of one row; ``paired`` where one column holds both ends of each.

    Raises ValueError where a list is shorter than another, or a time is none.
    """
    starts, ends = _listed(start), _listed(end)
    if paired:
        ends = None
        starts = [starts] if starts is not None and not _nested(starts) else starts
        pairs = [_pair(one) for one in starts or []]
        return _with_captions(caption, [_segment(a, b, unit) for a, b in pairs])
    if starts is None and ends is None:
        return [(caption, _segment(start, end, unit))]
    starts = starts if starts is not None else [None] * len(ends or [])
    ends = ends if ends is not None else [None] * len(starts)
    if len(starts) != len(ends):
        raise ValueError(f"{len(starts)} starts and {len(ends)} ends are named; a segment needs both")
    return _with_captions(caption, [_segment(a, b, unit) for a, b in zip(starts, ends, strict=True)])


def _with_captions(caption: Any, segments: Sequence[Segment]) -> list[tuple[Any, Segment]]:
    """One caption for each segment, or one segment's own."""
    captions = _listed(caption)
    if captions is None:
        captions = [caption] if len(segments) == 1 else []
    if len(captions) != len(segments):
        told = f"{len(captions)} captions" if captions else "one caption"
        raise ValueError(f"{told} for {len(segments)} segments; each needs its own")
    return list(zip(captions, segments, strict=True))


def _segment(start: Any, end: Any, unit: SegmentUnit) -> Segment:
    first, last = _number(start), _number(end)
    return Segment(0.0 if first is None else first, last, unit)


def _pair(value: Any) -> tuple[Any, Any]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"start and end of a segment are two numbers, got {str(value)[:40]}")
    return value[0], value[1]


def _nested(values: Sequence[Any]) -> bool:
    return not values or isinstance(values[0], list)


def _listed(value: Any) -> list[Any] | None:
    """A list, also one that was written into a cell as JSON or as Python shows it; None where it is none."""
    if isinstance(value, (list, tuple)):
        return [list(part) if isinstance(part, tuple) else part for part in value]
    if not isinstance(value, str) or not value.strip().startswith("["):
        return None
    for read in (json.loads, ast.literal_eval):  # literals alone: nothing is executed
        try:
            found = read(value.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        if isinstance(found, list):
            return _listed(found)
    return None


_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d*)?)")


def _number(value: Any) -> float | None:
    """Seconds or frames: a number, its text, or a time as ``1:02:03.5``; None where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)) or value == "":
        return None
    clock = _CLOCK.fullmatch(value.strip()) if isinstance(value, str) else None
    if clock:
        return int(clock[1] or 0) * 3600 + int(clock[2]) * 60 + float(clock[3])
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{str(value)[:40]!r} is no time") from error
