"""What the oracle saw in a clip, for people: where each thing was in each frame, and what it took for a thing."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy import ndimage

from vgen.toybox.oracle import Facts

_PALETTE = [0, 0, 0, 255, 255, 255, 255, 0, 200]
_ALPHA = bytes([0, 60, 210])  # nothing, inside, outline
_KEY = "tracks"


def write_overlay(path: Path, facts: Facts) -> None:
    """A PNG: the frames' masks one below the other (inside and outline), the tracks as JSON in a text field."""
    inside = facts.covered
    outline = inside & ~ndimage.binary_erosion(inside, np.ones((1, 3, 3), bool))
    strip = (inside.astype(np.uint8) + outline).reshape(-1, inside.shape[2])
    image = Image.frombytes("P", strip.shape[::-1], strip.tobytes())
    image.putpalette(_PALETTE)
    info = PngInfo()
    info.add_text(_KEY, json.dumps(tracks(facts)))
    out = io.BytesIO()
    image.save(out, "PNG", pnginfo=info, transparency=_ALPHA)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(out.getvalue())


def tracks(facts: Facts) -> list[dict[str, Any]]:
    """One per thing; ``f`` its frames, ``x y r`` in canvas widths."""
    return [
        {
            "is": " ".join(part.value for part in (thing.size, thing.colour, thing.shape)),
            "moves": " ".join(part.value for part in (thing.motion, thing.speed) if part is not None),
            "f": thing.frames.tolist(),
            "x": thing.centres[:, 0].round(3).tolist(),
            "y": thing.centres[:, 1].round(3).tolist(),
            "r": thing.radii.round(3).tolist(),
        }
        for thing in facts.things
    ]


def read_tracks(path: Path) -> list[dict[str, Any]]:
    """What :func:`write_overlay` put there; nothing where there is no overlay."""
    if not path.is_file():
        return []
    with Image.open(path) as image:
        return json.loads(image.text.get(_KEY, "[]"))  # type: ignore[attr-defined]
