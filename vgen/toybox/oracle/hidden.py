"""What is half behind something else: the template that fits the part that can be seen, wherever its centre
and however large it is.

Nothing is known of the pixels under the other body, so they count neither for nor against a template.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from vgen.toybox.oracle.shapes import Fit, classify_parts, sample_blob

TOUCHING = 0.08  # of a body's rim on other bodies; less is a neighbour
WHOLE = 0.87  # soft IoU with a template that a body reaches which nothing hides
LOOKS = 4  # frames of a clip in which hidden bodies are completed: enough for a majority, and it is slow
_SHIFTS = (0.0, 0.15, 0.3, 0.45, 0.6)  # radii of the visible part towards what hides it
_ASIDE = (-0.15, 0.0, 0.15)
_GROWTHS = (1.0, 1.2, 1.42)


@dataclass(frozen=True, slots=True)
class Completed:
    """``radius`` is that of the whole body, in the unit that the visible one was given in."""

    fit: Fit
    radius: float


def is_cut(contact: float, outline: float) -> bool:
    """Whether other bodies take so much of the rim, and the outline fits its best template so poorly, that a
    part must be missing."""
    return contact > TOUCHING and outline < WHOLE


def complete(cover: np.ndarray, others: np.ndarray, y: float, x: float, radius: float) -> Completed:
    """``cover`` h w of the visible part around ``y x`` (pixel indices) with ``radius`` px; ``others`` bool h
    w are the other bodies."""
    known = 1.0 - ndimage.binary_dilation(others).astype(np.float32)
    towards = _direction(others, y, x)
    aside = (-towards[1], towards[0])
    at = [
        (y + radius * (a * towards[0] + b * aside[0]), x + radius * (a * towards[1] + b * aside[1]))
        for a in _SHIFTS
        for b in _ASIDE
    ]
    best: Completed | None = None
    for growth in _GROWTHS:
        r = radius * growth
        samples, weights = (np.stack([sample_blob(m, *place, r) for place in at]) for m in (cover, known))
        fit, _ = classify_parts(samples, weights, r)
        if best is None or fit.ious.max() > best.fit.ious.max():
            best = Completed(fit, r * fit.scale)
    assert best is not None
    return best


def _direction(others: np.ndarray, y: float, x: float) -> tuple[float, float]:
    """Unit vector to the nearest of what may hide the rest."""
    ys, xs = np.nonzero(others)
    distance = np.hypot(ys - y, xs - x)
    near = distance <= distance.min() + 3
    dy, dx = float(ys[near].mean() - y), float(xs[near].mean() - x)
    length = math.hypot(dy, dx)
    return (dy / length, dx / length) if length > 0 else (1.0, 0.0)
