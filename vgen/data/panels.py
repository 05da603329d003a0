"""Clips beside one another, each with a label above it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP, STRIP = 8, 28
"""Pixels between clips, and of the strip with their labels; even, as H.264 asks."""
LETTER = 16
PAPER, INK = 255, 40


def side_by_side(panels: Mapping[str, np.ndarray]) -> np.ndarray:
    """Clips uint8 f h w 3 of one size by their labels, as one clip uint8 f (h + 28) W 3."""
    parts: list[np.ndarray] = []
    for label, video in panels.items():
        if parts:
            parts.append(np.full((len(video), parts[0].shape[1], GAP, 3), PAPER, np.uint8))
        parts.append(labelled(video, label))
    return np.concatenate(parts, 2)


def labelled(video: np.ndarray, label: str) -> np.ndarray:
    """The clip below a strip with the label, which is cut where the clip is too narrow for it."""
    strip = Image.new("RGB", (video.shape[2], STRIP), (PAPER,) * 3)
    pen, letters = ImageDraw.Draw(strip), ImageFont.load_default(LETTER)
    shown = label
    while shown and pen.textlength(shown, letters) > video.shape[2] - GAP:
        shown = shown[:-1]
    pen.text((GAP // 2, STRIP // 2), shown, (INK,) * 3, letters, anchor="lm")
    above = np.broadcast_to(np.asarray(strip), (len(video), STRIP, video.shape[2], 3))
    return np.concatenate([above, video], 1)
