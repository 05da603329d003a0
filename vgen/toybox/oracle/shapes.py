"""Which silhouette is it? Soft IoU with templates of the six shapes, in a frame of reference of the blob's
own size and place."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from vgen.toybox.glyphs import inside
from vgen.toybox.oracle.unmixing import relief
from vgen.toybox.scenes import Shape

SHAPES = list(Shape)
GRID, REACH = 27, 1.9  # sample points per side, and how far they reach in radii of the blob
SCALES = (0.94, 0.98, 1.02, 1.06, 1.1, 1.15)  # above one where a nose is missing
BLURS_PX = (0.0, 1.0, 2.0)  # a decoder may blur; what it blurs is still a star
SAMPLING_BLUR_PX = 0.35  # of the bilinear look-up
_STEPS = np.linspace(-REACH, REACH, GRID)
_GY, _GX = (axis.ravel() for axis in np.meshgrid(_STEPS, _STEPS, indexing="ij"))


@dataclass(frozen=True, slots=True)
class Fit:
    """``ious`` with the best template of each shape; ``scale`` is the best template's radius in radii of the
    blob."""

    shape: Shape
    ious: np.ndarray
    scale: float


def sample_blob(cover: np.ndarray, y: float, x: float, radius: float) -> np.ndarray:
    """``cover`` h w at the grid points around ``y x`` (pixel indices), bilinear; GRID*GRID."""
    return ndimage.map_coordinates(
        cover, [y + _GY * radius, x + _GX * radius], order=1, mode="constant", prefilter=False
    )


def classify(samples: np.ndarray, radius_px: float) -> Fit:
    """Best template for one blob."""
    templates, sums = _templates(max(2, round(radius_px)))
    both = np.minimum(templates, samples.astype(np.float32)).sum(-1)
    iou = both / (sums + samples.sum() - both)  # what either covers: their sum less what both do
    s, k = np.unravel_index(iou.argmax(), iou.shape)
    return Fit(SHAPES[s], iou.max(1), SCALES[k % len(SCALES)])


def classify_parts(samples: np.ndarray, weights: np.ndarray, radius_px: float) -> tuple[Fit, int]:
    """The same for looks m n at one blob from several places: for each shape the best of all, and the place
    of the best one. ``weights`` m n are zero where nothing is known: under another body, or where the gray
    nose of a white thing is."""
    templates, _ = _templates(max(2, round(radius_px)))
    iou = np.empty((*templates.shape[:2], len(samples)), np.float32)
    samples, weights = samples.astype(np.float32), weights.astype(np.float32)
    for m, (x, w) in enumerate(zip(samples, weights, strict=True)):
        both = np.minimum(templates, x) @ w
        iou[..., m] = both / np.maximum(templates @ w + x @ w - both, 1e-6)
    s, k, place = np.unravel_index(iou.argmax(), iou.shape)
    return Fit(SHAPES[s], iou.max((1, 2)), SCALES[k % len(SCALES)]), int(place)


@lru_cache(maxsize=64)
def _templates(radius_px: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 shapes x (blurs * scales) x GRID*GRID, drawn with the pixels that a thing of this size is drawn
    with, and their sums."""
    sub = (np.arange(4) + 0.5) / 4 - 0.5
    oy, ox = (axis.ravel() for axis in np.meshgrid(sub, sub, indexing="ij"))
    py, px = _GY[:, None] * radius_px + oy, _GX[:, None] * radius_px + ox
    out = np.empty((len(SHAPES), len(BLURS_PX), len(SCALES), GRID * GRID), np.float32)
    step_px = 2 * REACH * radius_px / (GRID - 1)
    for s, shape in enumerate(SHAPES):
        for k, scale in enumerate(SCALES):
            sharp = (
                inside(shape, px / (scale * radius_px), py / (scale * radius_px)).mean(1).reshape(GRID, GRID)
            )
            for i, blur in enumerate(BLURS_PX):
                cover = relief(ndimage.gaussian_filter(sharp, blur / step_px))
                out[s, i, k] = ndimage.gaussian_filter(cover, SAMPLING_BLUR_PX / step_px).ravel()
    flat = out.reshape(len(SHAPES), -1, GRID * GRID)
    return flat, flat.sum(-1)
