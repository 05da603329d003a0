"""What the oracle saw in a clip, for people: where each thing was in each frame and what it took for a thing,
or a figure's joints."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo
from scipy import ndimage

from vgen.metrics.task import Task
from vgen.toybox.oracle import Facts
from vgen.toybox.oracle.pose import Figure, read_pose
from vgen.toybox.scenes import Kind

_PALETTE = [0, 0, 0, 255, 255, 255, 255, 0, 200]
_ALPHA = bytes([0, 60, 210])  # nothing, inside, outline
_KEY = "seen"
Seen = dict[str, list[dict[str, Any]]]
"""``things`` as :func:`tracks` says, or ``figures`` as :func:`figures` does."""


def figure_of(task: Task, clip: np.ndarray) -> Figure | None:
    """Where a task asks for a figure, its joints are what is judged, and no things."""
    return read_pose(clip) if any(thing.kind is Kind.PUPPET for thing in task.scene.things) else None


def write_overlay(path: Path, facts: Facts, drawn: Figure | None = None) -> None:
    """A PNG: the frames' masks one below the other (inside and outline), tracks or joints as JSON in a text
    field."""
    inside = facts.covered
    outline = inside & ~ndimage.binary_erosion(inside, np.ones((1, 3, 3), bool))
    strip = (inside.astype(np.uint8) + outline).reshape(-1, inside.shape[2])
    image = Image.frombytes("P", strip.shape[::-1], strip.tobytes())
    image.putpalette(_PALETTE)
    info = PngInfo()
    seen: Seen = {"things": tracks(facts)} if drawn is None else {"figures": figures(drawn)}
    info.add_text(_KEY, json.dumps(seen))
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


def figures(seen: Figure) -> list[dict[str, Any]]:
    """One, or none where no frame shows a figure; ``joints`` by frame: 17 places in canvas widths, COCO
    order, or null."""
    if seen.action is None or seen.clothes is None:
        return []
    shirt, trousers = (colour.value for colour in seen.clothes)
    joints = [frame.round(3).tolist() if np.isfinite(frame).all() else None for frame in seen.joints]
    return [
        {"is": f"{shirt} shirt, {trousers} trousers", "moves": f"as in {seen.action.value}", "joints": joints}
    ]


def read_seen(path: Path) -> Seen:
    """What :func:`write_overlay` put there; nothing where there is no overlay."""
    if not path.is_file():
        return {}
    with Image.open(path) as image:
        assert isinstance(image, PngImageFile)  # as written
        return json.loads(image.text.get(_KEY, "{}"))
