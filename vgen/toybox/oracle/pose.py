"""Joints of the puppet from pixels: render and compare, over every phase of the world's four actions at seven
sizes.

It knows these poses and no others: a figure in another pose gets the joints of the most similar one, and
``fit`` says how similar.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage

from vgen.toybox import puppet
from vgen.toybox.oracle.grounds import read_backdrop
from vgen.toybox.scenes import RGB, Action, Colour, Kind, Thing

NUM_PHASES = 24
RADII = tuple(0.135 * 1.07**i for i in range(7))  # canvas widths: what the world draws is .15 to .19
GRID, REACH = 44, 0.42  # samples per side around the figure's centroid, and how far they reach in widths
WORST_FIT = 0.3  # soft IoU of skin, shirt and trousers below which there is no figure
LEAST = 0.01  # of the canvas: fewer pixels are no figure
_FAR = 0.35  # RGB distance to all four colours beyond which a pixel is none of them
_ORIGIN = np.array([0.0, 0.0, 0.0, 1.0])
_STEPS = (np.arange(GRID) + 0.5) / GRID * 2 * REACH - REACH
_GY, _GX = (axis.ravel() for axis in np.meshgrid(_STEPS, _STEPS, indexing="ij"))


@dataclass(frozen=True, slots=True)
class Figure:
    """``joints`` f 17 2 in canvas widths (COCO order, NaN where no figure was found), ``fit`` f soft IoU,
    ``action`` of the clip (None where there is no figure), clothes as they were read or told."""

    joints: np.ndarray
    fit: np.ndarray
    action: Action | None
    clothes: tuple[Colour, Colour] | None


def read_pose(video: np.ndarray, clothes: tuple[Colour, Colour] | None = None) -> Figure:
    """``video`` uint8 f h w 3; ``clothes`` are shirt and trousers, read from the pixels where they are not
    told."""
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or 0 in video.shape:
        raise ValueError(
            f"the pose reader reads uint8 f h w 3, got {video.dtype} {video.shape}; round and clip the "
            "video first"
        )
    pixels = video.astype(np.float32) / 255
    under = read_backdrop(pixels).colours
    clothes = clothes or _clothes(pixels, under)
    joints, fit = np.full((len(video), 17, 2), np.nan), np.zeros(len(video))
    if clothes is None:
        return Figure(joints, fit, None, None)
    there = {
        k: sample
        for k, part in enumerate(_parts(pixels, under, clothes))
        if (sample := _sampled(part)) is not None
    }
    costs = np.zeros(len(Action))
    if there:
        templates, squares, places = _library()
        seen = np.stack([grid for grid, _ in there.values()], 1)
        error = squares[:, None] - 2 * (templates @ seen)
        for k, x, e in zip(there, seen.T, error.T, strict=True):
            best = templates[e.argmin()]
            fit[k] = np.minimum(best, x).sum() / np.maximum(best, x).sum()
            if fit[k] >= WORST_FIT:
                joints[k] = places[e.argmin()] + there[k][1]
                costs += e.reshape(len(RADII), len(Action), NUM_PHASES).min((0, 2))
    found = bool(np.isfinite(joints).any())
    return Figure(joints, fit, list(Action)[int(costs.argmin())] if found else None, clothes)


def read_clothes(video: np.ndarray) -> list[tuple[Colour, Colour] | None]:
    """Shirt and trousers in every frame of ``video`` uint8 f h w 3; None where there is no figure."""
    pixels = video.astype(np.float32) / 255
    under = read_backdrop(pixels).colours
    return [_clothes(frame[None], under) for frame in pixels]


def _parts(pixels: np.ndarray, under: np.ndarray, clothes: tuple[Colour, Colour]) -> np.ndarray:
    """float32 f 3 h w: which pixels are skin, shirt, trousers rather than each other or the ground."""
    ends = [puppet.SKIN, *(np.asarray(RGB[c], np.float32) / 255 for c in clothes)]
    distance = np.stack([np.linalg.norm(pixels - end, axis=-1) for end in (*ends, under)])
    nearest = np.where(distance.min(0) < _FAR, distance.argmin(0), len(ends))
    return np.stack([nearest == i for i in range(len(ends))], 1).astype(np.float32)


def _clothes(pixels: np.ndarray, under: np.ndarray) -> tuple[Colour, Colour] | None:
    """The two palette colours that cover most, the upper one first."""
    pixels, under = pixels[:, ::2, ::2], under[::2, ::2] if len(under) > 1 else under
    ends = np.stack([np.asarray(RGB[c], np.float32) / 255 for c in Colour] + [puppet.SKIN])
    distance = np.linalg.norm(pixels[..., None, :] - ends, axis=-1)
    nearest = np.where(
        (distance.min(-1) < _FAR) & (np.linalg.norm(pixels - under, axis=-1) > _FAR),
        distance.argmin(-1),
        len(ends),
    )
    votes = Counter({i: int((nearest == i).sum()) for i in range(len(Colour))})
    (a, num_a), (b, num_b) = votes.most_common(2)
    if min(num_a, num_b) < LEAST / 4 * nearest.size:
        return None
    height = {i: np.nonzero(nearest == i)[1].mean() for i in (a, b)}
    upper, lower = sorted((a, b), key=height.__getitem__)
    return list(Colour)[upper], list(Colour)[lower]


def _sampled(part: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """``part`` 3 h w at the grid around the centroid of its largest piece, and that centroid in canvas
    widths; None where there is next to nothing."""
    size = part.shape[-1]
    whole = part.sum(0)
    label, num = ndimage.label(ndimage.binary_dilation(whole > 0))
    if not num or whole.sum() < LEAST * size * size:
        return None
    mine = label == 1 + int(np.argmax(ndimage.sum_labels(whole, label, np.arange(1, num + 1))))
    whole = whole * mine
    cy, cx = (float((whole * axis).sum() / whole.sum()) for axis in np.ogrid[:size, :size])
    at = [cy + _GY * size, cx + _GX * size]
    seen = np.concatenate([ndimage.map_coordinates(p * mine, at, order=1, prefilter=False) for p in part])
    return seen, np.array([cx + 0.5, cy + 0.5]) / size


@cache
def _library() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Templates float32 n 3*GRID*GRID around the centroid of the figure, their squared norms, and joints n 17
    2 relative to it."""
    templates, places = [], []
    for radius in RADII:
        for action in Action:
            for phase in np.arange(NUM_PHASES) * 2 * math.pi / NUM_PHASES:
                thing = Thing(
                    kind=Kind.PUPPET,
                    colour=Colour.RED,
                    second=Colour.BLUE,
                    action=action,
                    phase=phase,
                    radius=radius,
                )
                cover, joints = _drawn(thing)
                templates.append(cover.ravel())
                places.append(joints)
    stacked = np.stack(templates)
    return stacked, (stacked * stacked).sum(1), np.stack(places)


def _drawn(thing: Thing) -> tuple[np.ndarray, np.ndarray]:
    """Shares of skin, shirt and trousers 3 n at the grid around the centroid, and the joints relative to
    it."""
    coarse = np.linspace(-0.6, 0.6, 80)
    body = _labels(thing, coarse[:, None], coarse[None, :]) < 3
    cy, cx = (float((body * axis).sum() / body.sum()) for axis in (coarse[:, None], coarse[None, :]))
    labels = _labels(thing, _STEPS[:, None] + cy, _STEPS[None, :] + cx).ravel()
    shares = np.stack([labels == i for i in range(3)]).astype(np.float32)
    return shares, puppet.joints(thing, _ORIGIN, 0.0) - [cx, cy]


def _labels(thing: Thing, gy: np.ndarray, gx: np.ndarray) -> np.ndarray:
    """0 skin, 1 shirt, 2 trousers, 3 nothing at the points of an open grid."""
    out = np.full((gy.size, gx.size), 3)
    shirt = np.asarray(RGB[thing.colour], np.float32) / 255
    for stencil, _, _, colour in puppet.layers(thing, _ORIGIN, 0.0):
        out[stencil(gx, gy)] = 0 if colour is puppet.SKIN else 1 if np.array_equal(colour, shirt) else 2
    return out
