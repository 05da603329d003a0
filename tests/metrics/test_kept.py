"""What an edit changed and kept, by distances that are known; labels above clips."""

from __future__ import annotations

import numpy as np
import pytest

from vgen.data.panels import GAP, STRIP, labelled, side_by_side
from vgen.metrics.kept import changed_nothing, kept_nothing, unrelated_psnr
from vgen.metrics.psnr import psnr


def square(left: int, value: int = 255) -> np.ndarray:
    """A bright square on black, 4 frames of 32 px, that moves right."""
    video = np.zeros((4, 32, 32, 3), np.uint8)
    for number in range(4):
        video[number, 4:12, left + number : left + 8 + number] = value
    return video


def test_an_unrelated_clip_has_the_colours_elsewhere() -> None:
    clip = square(3)
    assert unrelated_psnr(clip) == pytest.approx(psnr(square(3), np.roll(clip, 16, 2)), abs=0.5)
    assert unrelated_psnr(clip) < psnr(clip, square(5)) < psnr(clip, square(3, 200))


@pytest.mark.parametrize(
    ("edited", "changed", "kept"),
    [
        (square(3), False, True),
        (square(3, 120), True, True),
        (square(5), True, True),
        (np.roll(square(3), 16, 1), True, False),
        (255 - square(3), True, False),
    ],
)
def test_an_edit_is_between_the_decoder_and_an_unrelated_clip(
    edited: np.ndarray, changed: bool, kept: bool
) -> None:
    source, ceiling = square(3), 40.0
    distance = psnr(edited, source)
    assert changed_nothing(distance, ceiling) is not changed
    assert kept_nothing(distance, unrelated_psnr(source), ceiling) is not kept


def test_of_a_clip_that_is_its_own_mirror_image_nothing_is_said() -> None:
    plain = np.full((2, 16, 16, 3), 90, np.uint8)
    assert not kept_nothing(5.0, unrelated_psnr(plain), 40.0)


def test_clips_stand_below_their_labels() -> None:
    left, right = square(3), square(9)
    video = side_by_side({"source": left, "a label that is far too long": right})
    assert video.shape == (4, 32 + STRIP, 64 + GAP, 3)
    assert np.array_equal(video[:, STRIP:, :32], left)
    assert np.array_equal(video[:, STRIP:, -32:], right)
    assert (video[:, :STRIP, -2:] == 255).all(), "cut, not written over the edge"
    strips = [labelled(np.zeros((1, 64, 256, 3), np.uint8), text)[0, :STRIP] for text in ("source", "edited")]
    assert all(strip.min() < 100 for strip in strips)
    assert not np.array_equal(*strips)
