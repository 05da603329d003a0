"""The 4 x 4 code of an identicon from pixels: whose sprite is it?

The two colours are the subject's and are told. All codes have eight bits set, so colours alone, however they
are counted, say nothing about who it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from vgen.toybox.oracle.facts import motion_of
from vgen.toybox.oracle.grounds import read_backdrop
from vgen.toybox.scenes import RGB, Colour, Ground, Motion

NUM_BITS, SIDE = 16, 4
LEAST = 0.01  # of the canvas: a smaller patch is no sprite
SQUARE = 0.6  # least share of its bounding square that a sprite fills
_FAR = 0.3  # RGB distance from the mixtures of the two colours beyond which a pixel is not the sprite's
_CELL = (
    np.array([0.3, 0.5, 0.7])[None] + np.arange(SIDE)[:, None]
).ravel() / SIDE * 2 - 1  # nine looks into each cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Sprite:
    """``levels`` f 16: 0 is the second colour, 1 the first, NaN where no sprite was found; ``centres`` f 2
    and ``sides`` f (half sides) in canvas widths."""

    levels: np.ndarray
    centres: np.ndarray
    sides: np.ndarray
    ground: Ground | None
    motion: Motion | None

    @property
    def found(self) -> np.ndarray:
        return np.isfinite(self.levels).all(1)

    def code(self) -> np.ndarray | None:
        """bool 16: the mean over frames, thresholded; None where nothing was found."""
        return self.levels[self.found].mean(0) > 0.5 if self.found.any() else None


def read_identicon(video: np.ndarray, colours: tuple[Colour, Colour], stride_ticks: int = 1) -> Sprite:
    """``video`` uint8 f h w 3; ``colours`` of set and of unset bits."""
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or 0 in video.shape:
        raise ValueError(
            f"the identicon reader reads uint8 f h w 3, got {video.dtype} {video.shape}; round and clip the "
            "video first"
        )
    pixels = video.astype(np.float32) / 255
    backdrop = read_backdrop(pixels)
    ink, paper = (np.asarray(RGB[c], np.float32) / 255 for c in colours)
    share, near = _share(pixels, ink, paper)
    mine = near & (
        np.linalg.norm(pixels - backdrop.colours, axis=-1) > _off_ground(backdrop.colours, pixels, ink, paper)
    )
    levels, centres, sides = (
        np.full((len(video), NUM_BITS), np.nan),
        np.full((len(video), 2), np.nan),
        np.full(len(video), np.nan),
    )
    for k in range(len(video)):
        box = _box(mine[k])
        if box is not None:
            y, x, side = box
            at = np.meshgrid(y + _CELL * side, x + _CELL * side, indexing="ij")
            looks = ndimage.map_coordinates(share[k], at, order=1, mode="nearest", prefilter=False)
            levels[k] = np.median(
                looks.reshape(SIDE, 3, SIDE, 3).transpose(0, 2, 1, 3).reshape(NUM_BITS, 9), axis=1
            )
            centres[k], sides[k] = np.array([x + 0.5, y + 0.5]) / video.shape[2], side / video.shape[2]
    seen = np.flatnonzero(np.isfinite(sides))
    motion = (
        motion_of(seen * stride_ticks, centres[seen], (len(video) - 1) * stride_ticks)
        if len(seen) > 1
        else None
    )
    return Sprite(levels=levels, centres=centres, sides=sides, ground=backdrop.ground, motion=motion)


def _share(pixels: np.ndarray, ink: np.ndarray, paper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far each pixel lies from paper (0) to ink (1), and whether it lies near that line at all."""
    line = ink - paper
    share = (pixels - paper) @ line / (line @ line)
    astray = np.linalg.norm(pixels - paper - np.clip(share, 0, 1)[..., None] * line, axis=-1)
    return share, astray < _FAR


def _off_ground(under: np.ndarray, pixels: np.ndarray, ink: np.ndarray, paper: np.ndarray) -> np.ndarray:
    """Half the distance between the ground and the nearer of the two colours: the edge of a blurred sprite
    lies there."""
    distance = np.stack([np.linalg.norm(c - under, axis=-1) for c in (ink, paper)])
    nearer = np.linalg.norm(pixels - ink, axis=-1) < np.linalg.norm(pixels - paper, axis=-1)
    return np.where(nearer, distance[0], distance[1]) / 2


def _box(mine: np.ndarray) -> tuple[float, float, float] | None:
    """Centre ``y x`` and half side, in pixels, of the largest piece; None where it is too small or no square.
    What is between two cells may look like the ground (green and magenta make gray), so gaps are closed
    first."""
    mine = ndimage.binary_opening(ndimage.binary_closing(np.pad(mine, 2), iterations=2)[2:-2, 2:-2])
    label, num = ndimage.label(mine)
    if not num:
        return None
    piece = label == 1 + int(np.argmax(ndimage.sum_labels(mine, label, np.arange(1, num + 1))))
    area = float(piece.sum())
    rows, columns = ndimage.find_objects(piece.astype(int))[0]
    if (
        area < LEAST * mine.size
        or area < SQUARE * max(rows.stop - rows.start, columns.stop - columns.start) ** 2
    ):
        return None
    whole = ndimage.binary_fill_holes(piece)
    y, x = (float((whole * axis).sum() / whole.sum()) for axis in np.ogrid[: mine.shape[0], : mine.shape[1]])
    return y, x, math.sqrt(float(whole.sum())) / 2
