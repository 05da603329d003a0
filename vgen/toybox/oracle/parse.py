"""One video into blobs: where something of one colour is opaque, what it covers, and what nothing explains."""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from vgen.toybox.oracle.grounds import Backdrop
from vgen.toybox.oracle.shapes import Fit, classify, sample_blob
from vgen.toybox.oracle.unmixing import COLOURS, WHITE, WHITE_NOSE, body, relief, share_of, unmix
from vgen.toybox.scenes import Colour, Shape

OPAQUE, CORE, HELD, VISIBLE = 0.55, 0.7, 0.3, 0.2  # shares: belongs to a body, votes on its colour, holds a body together, is a mark at least
FRAGMENT = 5  # pixels; specks are not looked at
SMALLEST = 0.003  # of the canvas: half the area of a circle a third smaller than any small thing
WORST_FIT = 0.4  # soft IoU with the best template, below which it is no thing of this world and stays unexplained
_IN_PLANE = np.zeros((3, 3, 3), bool)
_IN_PLANE[1] = True
_DISC = np.array([[0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0]], bool)
_MARGIN = 5


@dataclass(frozen=True, slots=True)
class Blob:
    """One body in one frame; ``x y radius`` in canvas widths; ``ious`` with each shape's best template."""

    frame: int
    colour: Colour
    shape: Shape
    x: float
    y: float
    radius: float
    ious: np.ndarray


@dataclass(frozen=True, slots=True)
class Parsed:
    """``unexplained``: share of each frame that is neither ground nor thing nor mark; ``covered`` bool f h w: bodies and marks."""

    blobs: list[Blob]
    unexplained: np.ndarray
    covered: np.ndarray


def parse(video: np.ndarray, backdrop: Backdrop) -> Parsed:
    """``video`` float32 f h w 3 in [0, 1]."""
    under = backdrop.colours
    difference = video - under
    share, colour = _shares(video, difference, under)
    opaque = share > OPAQUE
    smallest = SMALLEST * video.shape[1] * video.shape[2]
    blobs: list[Blob] = []
    bodies = np.zeros_like(opaque)
    for frame, k, part in _parts(share, colour, opaque, smallest):
        window = _window(part)
        under_here = under if under.shape[0] == 1 else under[window]
        blob = _blob(frame, k, part[window], (opaque[frame] & ~part)[window], video[frame][window], under_here, window, video.shape[2])
        if blob is not None:
            blobs.append(blob)
            bodies[frame] |= part
    covered = _covered(share, bodies)
    residual = np.abs(ndimage.uniform_filter(difference, (0, 3, 3, 0))).max(-1)
    return Parsed(blobs, ((residual > 0.12) & ~covered).mean((1, 2)), covered)


def _shares(video: np.ndarray, difference: np.ndarray, under: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share and colour of every pixel; those that look like the ground are not looked at."""
    share, colour = np.zeros(video.shape[:3], np.float32), np.zeros(video.shape[:3], np.int8)
    active = np.abs(difference).max(-1) > 0.05
    beneath = under.reshape(1, 3) if under.shape[0] == 1 else np.broadcast_to(under, video.shape)[active]
    share[active], colour[active], _ = unmix(video[active], beneath)
    return share, colour


def _parts(share: np.ndarray, colour: np.ndarray, opaque: np.ndarray, smallest: float) -> list[tuple[int, int, np.ndarray]]:
    """Frame, colour and mask h w of every body. Pieces of one colour that a weaker share holds together are one body."""
    tight, _ = ndimage.label(opaque, _IN_PLANE)
    loose, _ = ndimage.label(share > HELD, _IN_PLANE)
    found: dict[tuple[int, int, int], np.ndarray] = {}
    for i, box in enumerate(ndimage.find_objects(tight), start=1):
        piece = tight[box][0] == i
        if piece.sum() < FRAGMENT:
            continue
        frame = box[0].start
        for k, part in _by_colour(piece, colour[box][0], share[box][0], smallest):
            key = (frame, int(loose[box][0][part][0]), k)
            mask = found.setdefault(key, np.zeros(share.shape[1:], bool))
            mask[box[1:]] |= part
    return [(frame, k, mask) for (frame, _, k), mask in found.items() if mask.sum() >= smallest]


def _window(mask: np.ndarray) -> tuple[slice, slice]:
    """The box around a mask, with a margin."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return tuple(slice(max(0, x[0] - _MARGIN), x[-1] + _MARGIN + 1) for x in (rows, columns))  # type: ignore[return-value]


def _by_colour(piece: np.ndarray, colour: np.ndarray, share: np.ndarray, smallest: float) -> list[tuple[int, np.ndarray]]:
    """Parts of a connected piece by colour: things that touch are told apart, a nose (an eighth of a body) is not cut off."""
    core = piece & (share > CORE)
    votes = np.bincount(colour[core if core.any() else piece], minlength=len(COLOURS))
    chief = int(votes.argmax())
    rivals = [k for k in range(len(votes)) if k != chief and votes[k] > max(2 * smallest, 0.25 * votes.sum())]
    if not rivals:
        return [(chief, piece)]
    parts = [(k, piece & (colour == k)) for k in rivals]
    rest = piece & ~np.logical_or.reduce([part for _, part in parts])
    return [(chief, rest), *parts]


def _blob(
    frame: int, k: int, part: np.ndarray, others: np.ndarray, pixels: np.ndarray, under: np.ndarray, window: tuple[slice, slice], width: int
) -> Blob | None:
    near = ndimage.binary_dilation(part, _DISC)
    share = np.where(near & ~others, share_of(k, pixels, under), 0)
    cover, soft = body(share), relief(share)
    area = float(cover.sum())
    if area < SMALLEST * width * width:
        return None
    y, x = (float((cover * axis).sum()) / area for axis in np.ogrid[: cover.shape[0], : cover.shape[1]])
    radius = math.sqrt(area / math.pi)
    hidden = near & (np.abs(pixels - WHITE_NOSE).max(-1) < 0.06) if k == WHITE else None
    if hidden is not None and hidden.sum() > 0.04 * area:
        fit, y, x = _through_nose(soft, hidden, y, x, radius)
        radius *= fit.scale
    else:
        fit = classify(sample_blob(soft, y, x, radius), None, radius)
    if fit.ious.max() < WORST_FIT:
        return None
    y, x = y + window[0].start + 0.5, x + window[1].start + 0.5
    return Blob(frame, COLOURS[k], fit.shape, x / width, y / width, radius / width, fit.ious)


def _through_nose(cover: np.ndarray, hidden: np.ndarray, y: float, x: float, radius: float) -> tuple[Fit, float, float]:
    """A white thing's nose is gray and looks like a mark: it counts neither for nor against a template, and as it takes a bite out of
    the body, the centre is sought a little around the centroid."""
    cover = np.where(hidden, 0, cover)
    seen = 1.0 - hidden
    best: tuple[Fit, float, float] | None = None
    for step in (0.0, 0.09):
        for angle in np.arange(8 if step else 1) * math.pi / 4:
            at = (y + step * radius * math.sin(angle), x + step * radius * math.cos(angle))
            fit = classify(sample_blob(cover, *at, radius), sample_blob(seen, *at, radius), radius)
            if best is None or fit.ious.max() > best[0].ious.max():
                best = (fit, *at)
    assert best is not None
    return best


def _covered(share: np.ndarray, bodies: np.ndarray) -> np.ndarray:
    """Bodies with a rim of two pixels, and the translucent marks that hang on them."""
    rim = ndimage.binary_dilation(bodies, _DISC[None])
    marks = (share > VISIBLE) & (share < OPAQUE + 0.1) | bodies
    label, num = ndimage.label(marks, _IN_PLANE)
    held = np.zeros(num + 1, bool)
    held[label[bodies]] = True
    held[0] = False
    return rim | held[label]
