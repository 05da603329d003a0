"""Clips as files: a GIF keeps the colours of what moves, however many shades its ground has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from vgen.data.clip_files import write_gif

COLOURS = [(255, 40, 40), (40, 200, 90), (60, 90, 255), (250, 160, 20), (20, 220, 220), (240, 60, 220)]


def shown(path: Path) -> np.ndarray:
    with Image.open(path) as gif:
        frames = []
        for number in range(gif.n_frames):
            gif.seek(number)
            frames.append(np.asarray(gif.convert("RGB")))
    return np.stack(frames)


def on_a_ground_of_many_shades() -> tuple[np.ndarray, np.ndarray]:
    """Six small squares that move on noise of dark shades, as a decoder paints black; and where they are."""
    rng = np.random.default_rng(0)
    video = rng.integers(0, 40, (4, 96, 96, 3), dtype=np.uint8)
    where = np.zeros(video.shape[:3], bool)
    for number, colour in enumerate(COLOURS):
        for frame in range(4):
            left = 4 + 3 * frame
            patch = np.clip(np.array(colour) + rng.integers(-9, 10, (8, 8, 3)), 0, 255)
            video[frame, 2 + 15 * number : 10 + 15 * number, left : left + 8] = patch
            where[frame, 2 + 15 * number : 10 + 15 * number, left : left + 8] = True
    return video, where


def test_colours_of_what_moves_are_true(tmp_path: Path) -> None:
    video, where = on_a_ground_of_many_shades()
    error = np.abs(shown(write_gif(tmp_path / "a.gif", video)).astype(int) - video.astype(int)).max(-1)
    assert error[where].mean() < 8
    assert error[where].max() < 32
    assert error[~where].max() < 32


def test_few_colours_are_exact(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    palette = rng.integers(0, 256, (200, 3), dtype=np.uint8)
    video = palette[rng.integers(0, 200, (3, 40, 40))]
    assert np.array_equal(shown(write_gif(tmp_path / "a.gif", video)), video)
