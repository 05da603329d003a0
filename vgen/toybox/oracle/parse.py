"""One video into blobs: where something of one colour is opaque, what it covers, and what nothing
explains."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from vgen.toybox.oracle.grounds import Backdrop
from vgen.toybox.oracle.hidden import LOOKS, complete, is_cut
from vgen.toybox.oracle.shapes import Fit, classify, classify_parts, sample_blob
from vgen.toybox.oracle.unmixing import COLOURS, PALETTE, WHITE, WHITE_NOSE, body, relief, share_of, unmix
from vgen.toybox.scenes import Colour, Shape

OPAQUE, CORE, HELD, VISIBLE = (
    0.55,
    0.7,
    0.3,
    0.2,
)  # shares of: a body, its core, what holds it together, a mark
LEAST_CORE = 0.1  # of a body: plain colour, nearly opaque
MARK_SHARES, MARK_ASTRAY = (0.2, 0.7), 0.16  # RGB distance; between plain colours of like share it is .3
FRAGMENT = 5  # pixels; specks are not looked at
SMALLEST = 0.003  # of the canvas: half the area of a circle a third smaller than any small thing
LARGEST = 0.28  # radius in canvas widths; what a large thing grows to is .21
WORST_FIT = (
    0.4  # soft IoU with the best template, below which it is no thing of this world and stays unexplained
)
_IN_PLANE = np.zeros((3, 3, 3), bool)
_IN_PLANE[1] = True
_DISC = np.ones((5, 5), bool)
_DISC[[0, 0, -1, -1], [0, -1, 0, -1]] = False  # a square without its corners
_MARGIN = 5
# of a piece: a small thing half behind a large one has .13; a nose has .14 and does not vote, not being plain
RIVAL = 0.11


@dataclass(frozen=True, slots=True)
class Blob:
    """One body in one frame; ``x y radius`` in canvas widths, of what can be seen. ``contact``: the share of
    its rim, two pixels wide, that lies on other bodies; ``outline``: soft IoU of what can be seen with its
    best template. ``ious`` with each shape's best template and ``full_radius`` are those of the completed
    body where a part was hidden; ``whole`` is False where one is and was not completed."""

    frame: int
    colour: Colour
    shape: Shape
    x: float
    y: float
    radius: float
    ious: np.ndarray
    contact: float
    outline: float
    full_radius: float
    whole: bool


@dataclass(frozen=True, slots=True)
class Parsed:
    """``unexplained``: share of each frame that is neither ground nor thing nor mark; ``covered`` bool f h w:
    bodies and marks, ``bodies`` bool f h w without them."""

    blobs: list[Blob]
    unexplained: np.ndarray
    covered: np.ndarray
    bodies: np.ndarray


def parse(video: np.ndarray, backdrop: Backdrop) -> Parsed:
    """``video`` float32 f h w 3 in [0, 1]."""
    under = backdrop.colours
    difference = video - under
    share, colour, plain = _shares(video, difference, under)
    opaque = share > OPAQUE
    smallest = SMALLEST * video.shape[1] * video.shape[2]
    blobs: list[Blob] = []
    bodies = np.zeros_like(opaque)
    parts = _parts(share, colour, plain & (share > CORE), opaque, smallest)
    looked_at = set(np.linspace(0, len(video) - 1, LOOKS).round().astype(int))
    for frame, k, part in parts:
        window = _window(part)
        larger = [(c, other) for f, c, other in parts if f == frame and c != k and other.sum() > part.sum()]
        if any(_is_mark_of(c, other, part, difference[frame], under) for c, other in larger):
            bodies[frame] |= part  # explained, but no thing
            continue
        under_here = under if under.shape[0] == 1 else under[window]
        others, pixels = (opaque[frame] & ~part)[window], video[frame][window]
        blob = _blob(
            frame, k, part[window], others, pixels, under_here, window, video.shape[2], frame in looked_at
        )
        if blob is not None:
            blobs.append(blob)
            bodies[frame] |= part
    covered = _covered(share, bodies)
    residual = _largest(ndimage.uniform_filter(difference, (0, 3, 3, 0)))
    return Parsed(blobs, ((residual > 0.12) & ~covered).mean((1, 2)), covered, bodies)


def _largest(difference: np.ndarray) -> np.ndarray:
    """f h w: largest absolute value of three channels (numpy is slow at reducing a short last axis)."""
    red, green, blue = (np.abs(difference[..., c]) for c in range(3))
    return np.maximum(np.maximum(red, green), blue)


def _shares(
    video: np.ndarray, difference: np.ndarray, under: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share and colour of every pixel, and whether the colour is a plain one; pixels that look like the
    ground are not looked at."""
    share, colour, plain = (np.zeros(video.shape[:3], t) for t in (np.float32, np.int8, bool))
    active = _largest(difference) > 0.05
    beneath = under.reshape(1, 3) if under.shape[0] == 1 else np.broadcast_to(under, video.shape)[active]
    share[active], colour[active], plain[active] = unmix(video[active], beneath)
    return share, colour, plain


def _parts(
    share: np.ndarray, colour: np.ndarray, core: np.ndarray, opaque: np.ndarray, smallest: float
) -> list[tuple[int, int, np.ndarray]]:
    """Frame, colour and mask h w of every body. Pieces of one colour that a weaker share holds together are
    one body, and a body has a core: marks that a decoder made a little too strong have none."""
    tight, _ = ndimage.label(opaque, _IN_PLANE)
    loose, _ = ndimage.label(share > HELD, _IN_PLANE)
    found: dict[tuple[int, int, int], np.ndarray] = {}
    for i, box in enumerate(ndimage.find_objects(tight), start=1):
        piece = tight[box][0] == i
        if piece.sum() < FRAGMENT:
            continue
        frame = box[0].start
        for k, part in _by_colour(piece, colour[box][0], core[box][0], smallest):
            key = (frame, int(loose[box][0][part][0]), k)
            mask = found.setdefault(key, np.zeros(share.shape[1:], bool))
            mask[box[1:]] |= part
    return [
        (frame, k, mask)
        for (frame, _, k), mask in found.items()
        if mask.sum() >= smallest and core[frame][mask].mean() >= LEAST_CORE
    ]


def _is_mark_of(
    colour: int, thing: np.ndarray, part: np.ndarray, difference: np.ndarray, under: np.ndarray
) -> bool:
    """Whether ``part``, close to a larger ``thing``, is that thing's tail: a decoder may shift its hue so far
    that it passes for another colour, but as a mixture of ground and the thing's own colour, about half and
    half, it is still nearly right."""
    if not (ndimage.binary_dilation(thing, _DISC, iterations=2) & part).any():
        return False
    beneath = under.reshape(1, 3) if under.shape[0] == 1 else under[part]
    d, u = difference[part], PALETTE[colour] - beneath
    share = (d * u).sum(-1) / (u * u).sum(-1)
    astray = np.sqrt(((d - share[:, None] * u) ** 2).sum(-1).mean())
    return bool(MARK_SHARES[0] < share.mean() < MARK_SHARES[1] and astray < MARK_ASTRAY)


def _window(mask: np.ndarray) -> tuple[slice, slice]:
    """The box around a mask, with a margin."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return _around(rows), _around(columns)


def _around(cells: np.ndarray) -> slice:
    return slice(max(0, cells[0] - _MARGIN), cells[-1] + _MARGIN + 1)


def _by_colour(
    piece: np.ndarray, colour: np.ndarray, core: np.ndarray, smallest: float
) -> list[tuple[int, np.ndarray]]:
    """Parts of a connected piece by colour: things that touch are told apart, a nose (an eighth of a body) is
    not cut off."""
    voters = piece & core
    votes = np.bincount(colour[voters if voters.any() else piece], minlength=len(COLOURS))
    chief = int(votes.argmax())
    rivals = [
        k for k in range(len(votes)) if k != chief and votes[k] > max(2 * smallest, RIVAL * votes.sum())
    ]
    if not rivals:
        return [(chief, piece)]
    parts = [(k, piece & (colour == k)) for k in rivals]
    rest = piece & ~np.logical_or.reduce([part for _, part in parts])
    return [(chief, rest), *parts]


def _blob(
    frame: int,
    k: int,
    part: np.ndarray,
    others: np.ndarray,
    pixels: np.ndarray,
    under: np.ndarray,
    window: tuple[slice, slice],
    width: int,
    completes: bool,
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
        fit = classify(sample_blob(soft, y, x, radius), radius)
    contact, outline = float((near & others).sum()) / max(1, int((near & ~part).sum())), float(fit.ious.max())
    full, whole = radius, not is_cut(contact, outline)
    if not whole and (completes or outline < WORST_FIT):
        found = complete(soft, others, y, x, radius)
        fit, full, whole = found.fit, found.radius, True
    if fit.ious.max() < WORST_FIT or full > LARGEST * width:
        return None
    y, x = (y + window[0].start + 0.5) / width, (x + window[1].start + 0.5) / width
    return Blob(
        frame, COLOURS[k], fit.shape, x, y, radius / width, fit.ious, contact, outline, full / width, whole
    )


def _through_nose(
    cover: np.ndarray, hidden: np.ndarray, y: float, x: float, radius: float
) -> tuple[Fit, float, float]:
    """A white thing's nose is gray and looks like a mark: it counts neither for nor against a template, and
    as it takes a bite out of the body, the centre is sought a little around the centroid."""
    cover = np.where(hidden, 0, cover)
    steps = [(0.0, 0.0), *((0.09 * math.sin(a), 0.09 * math.cos(a)) for a in np.arange(8) * math.pi / 4)]
    places = [(y + radius * dy, x + radius * dx) for dy, dx in steps]
    samples, weights = (
        np.stack([sample_blob(m, *place, radius) for place in places]) for m in (cover, 1.0 - hidden)
    )
    fit, best = classify_parts(samples, weights, radius)
    return fit, *places[best]


def _covered(share: np.ndarray, bodies: np.ndarray) -> np.ndarray:
    """Bodies with a rim of two pixels, and the translucent marks that hang on them."""
    rim = ndimage.binary_dilation(bodies, _DISC[None])
    marks = (share > VISIBLE) & (share < OPAQUE + 0.1) | bodies
    label, num = ndimage.label(marks, _IN_PLANE)
    held = np.zeros(num + 1, bool)
    held[label[bodies]] = True
    held[0] = False
    return rim | held[label]
