"""Pictures and clips as they are on disk, before they are cut to the size of what is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ImageOps, UnidentifiedImageError

from vgen.data.bounded import opened, read_json
from vgen.data.decode import Cut, clips
from vgen.data.pose import canvas_of

SAME_ASPECT = 1.02
"""Aspects that differ by a smaller factor are taken for one: codecs round to even sides."""
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
LEAST = Cut(num_frames=1, size_px=8)


@dataclass(frozen=True, slots=True)
class Native:
    """``aspect`` is width over height as a player shows it, ``least_px`` the shorter side."""

    aspect: float
    least_px: int

    def agrees(self, other: Native) -> bool:
        """Whether both have one aspect."""
        return abs(math.log(self.aspect / other.aspect)) < math.log(SAME_ASPECT)


def native(path: Path) -> Native | None:
    """Of a picture, of a clip, of the canvas of key points, or of the first of these in a folder; None for
    arrays, and for key points that say no canvas.

    Raises what the readers raise where the file is damaged.
    """
    if path.is_dir():
        inside = sorted(file for file in path.iterdir() if file.suffix.lower() in (*PICTURES, ".json"))
        return native(inside[0]) if inside else None
    if path.suffix == ".json":
        return _of_canvas(read_json(path.read_bytes()))
    if path.suffix == ".npy":
        return None
    try:
        with opened(path) as file:
            width, height = ImageOps.exif_transpose(file).size
            return Native(width / height, min(width, height))
    except (UnidentifiedImageError, OSError, SyntaxError):
        facts = next(clips(path, LEAST)).metadata
        return Native(facts["aspect"], min(facts["source_width_px"], facts["source_height_px"]))


def _of_canvas(frames: Any) -> Native | None:
    """Of the first frame's canvas in OpenPose's JSON."""
    first = frames[0] if isinstance(frames, list) and frames else frames
    width, height = canvas_of(first)
    return None if (width, height) == (1, 1) else Native(width / height, int(min(width, height)))


def refuse_unlike(files: dict[str, Path], least_px: int) -> None:
    """Raises ValueError where the picture ``reference`` is smaller than what is drawn of it, or where another
    field is of another aspect than it: each is cut to a square in its middle. ``files`` are fields by
    name."""
    found = {name: native(path) for name, path in files.items()}
    picture = found.get("reference")
    if picture is None:
        return
    named = f"reference={files['reference']}"
    if picture.least_px < least_px:
        raise ValueError(
            f"{named} is {picture.least_px} px at its shorter side where {least_px} px are drawn; give a "
            "larger picture, or draw smaller with sampling.height_px and sampling.width_px"
        )
    for name, other in found.items():
        if other is not None and not other.agrees(picture):
            raise ValueError(
                f"{name}={files[name]} has an aspect of {other.aspect:.3g} where {named} has "
                f"{picture.aspect:.3g}, so that squares out of their middles show other places; set "
                f"{name}.fit=pad to see all of it, or {name}.fit=crop for its middle all the same"
            )
