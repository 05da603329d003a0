"""The README's picture: clips that the shipped model drew, side by side, to the pixel.

    python scripts/readme_picture.py            # draws them anew with the shipped model, under two minutes

A GIF has 256 colours for all clips and frames together; an animated WebP keeps every pixel.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "demo.webp"
FPS, SCALE, GAP, COLUMNS = 8, 3, 12, 3
PROMPTS = (
    ("a large white square that moves left fast on a brown background", 0),
    ("a large yellow ring that moves down fast on a navy background", 0),
    ("a medium cyan triangle that moves left slowly on a black background", 0),
    ("a large green star that moves up fast on a gray background", 0),
    (
        "a large blue circle that moves up fast and a large yellow square that moves down fast on a black "
        "background",
        3,
    ),
    (
        "a large orange cross that moves right fast and a large cyan circle that stays still on a black "
        "background",
        2,
    ),
)
"""Prompts and seeds, in reading order. They are chosen by eye among those of 19 clips (eight prompts, three
with more seeds) in which the oracle reads all that was asked."""


def composed(clips: list[np.ndarray]) -> np.ndarray:
    """uint8 f h w 3 each, as one clip on white: every pixel repeated, rows of ``COLUMNS``."""
    shown = [clip.repeat(SCALE, 1).repeat(SCALE, 2) for clip in clips]
    f, h, w, _ = shown[0].shape
    rows = -(-len(shown) // COLUMNS)
    sheet = np.full((f, rows * (h + GAP) - GAP, COLUMNS * (w + GAP) - GAP, 3), 255, np.uint8)
    for number, clip in enumerate(shown):
        row, column = divmod(number, COLUMNS)
        sheet[:, row * (h + GAP) : row * (h + GAP) + h, column * (w + GAP) : column * (w + GAP) + w] = clip
    return sheet


def taken_apart(sheet: np.ndarray, size_px: int = 64) -> list[np.ndarray]:
    """The clips of a composed picture, the inverse of :func:`composed`."""
    step, side, out = size_px * SCALE + GAP, size_px * SCALE, []
    for top in range(0, sheet.shape[1], step):
        for left in range(0, sheet.shape[2], step):
            out.append(sheet[:, top : top + side : SCALE, left : left + side : SCALE])
    return out


def as_webp(sheet: np.ndarray, fps: float = FPS) -> bytes:
    """Lossless, for ever."""
    frames = [Image.fromarray(frame) for frame in sheet]
    out = io.BytesIO()
    options = {"lossless": True, "quality": 100, "method": 6, "minimize_size": True}
    frames[0].save(
        out, "WEBP", save_all=True, append_images=frames[1:], duration=round(1000 / fps), loop=0, **options
    )
    return out.getvalue()


def frames_of(payload: bytes) -> np.ndarray:
    """uint8 f h w 3."""
    with Image.open(io.BytesIO(payload)) as picture:
        frames = []
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            frames.append(np.asarray(picture.convert("RGB")))
    return np.stack(frames)


def drawn() -> list[np.ndarray]:
    from vgen.app.loading import open_checkpoint
    from vgen.data.clip_files import to_uint8
    from vgen.methods._sampling import Prompt, SamplingOverrides

    checkpoint = open_checkpoint("shipped")
    sampling = checkpoint.sampling(SamplingOverrides(num_steps=16, num_frames=16))
    return [to_uint8(checkpoint.sample([Prompt(text, seed=seed)], sampling)[0]) for text, seed in PROMPTS]


if __name__ == "__main__":
    PICTURE.write_bytes(as_webp(composed(drawn())))
    print(f"written: {PICTURE}, {PICTURE.stat().st_size / 1e3:.0f} kB")
