"""How the camera moves, from what all things of a clip share beyond their own ways.

Grounds are mostly plain and show no camera, so the things show it. How each goes through the world has to be
told, as a caption tells it: what is left of their paths is fitted by a pan, a zoom and a roll, each even over
the clip.

Calibration (tests/toybox/test_oracle_camera.py): twelve scenes of two things under each of the eight moves of
``camera.move``, 16 frames of 64 px. Through nothing, blur of 1 px and JPEG q50 the median of the clips is off
by at most .04 px (a pan is 1.07), .08 % of growth (a zoom is 1.5) and .05 degrees a frame (a roll is 2). One
clip alone errs by .08 px, .35 % and .2 degrees (standard deviation), most where the window cuts a thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from vgen.toybox.motion import path
from vgen.toybox.oracle.facts import Seen
from vgen.toybox.scenes import Thing

LEAST_MAGNIFIED, MOST_MAGNIFIED = 0.7, 1.5
_PLACE, _GROWTH = 0.004, 0.03  # widths, and share of a radius: what the oracle errs by in a frame
_ROLL_SHOWN = 2  # things, whose ways around the middle tell a roll from a pan

Pairs = Sequence[tuple[Thing, Seen]]
"""Things as they are told, and as they were seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraMotion:
    """The camera's own motion from a frame to the next. ``pan`` to the right and ``tilt`` downwards in canvas
    widths, so that what is seen goes the other way; ``zoom`` is the factor by which what is seen grows;
    ``roll`` in radians clockwise, None where a single thing was seen."""

    pan: float
    tilt: float
    zoom: float
    roll: float | None


@dataclass(frozen=True, slots=True)
class _Way:
    """One thing: frames from the middle of the clip k, what it did by itself since then k 2, where it was
    seen k 2 from the middle of the canvas, and the logarithm of its growth k, whose mean is zero."""

    frames: np.ndarray
    own: np.ndarray
    seen: np.ndarray
    growth: np.ndarray


def read_camera(pairs: Pairs, ticks: np.ndarray) -> CameraMotion | None:
    """``ticks`` f of the clip's frames; None where no thing was seen, or a clip of one frame.

    A camera that stands closer shows things larger and faster by one factor, which their radii tell.
    """
    if not pairs or len(ticks) < 2:
        return None
    closer = _magnified(pairs, ticks)
    ways = [_way(thing, seen, ticks, closer) for thing, seen in pairs]
    rolls = len(ways) >= _ROLL_SHOWN
    start = np.concatenate([np.zeros(4), *(way.seen.mean(0) for way in ways)])
    found = least_squares(_astray, start, args=(ways, rolls), loss="soft_l1").x
    pan, tilt, growth, roll = (float(value) for value in found[:4])
    return CameraMotion(pan=pan, tilt=tilt, zoom=float(np.exp(growth)), roll=roll if rolls else None)


def _magnified(pairs: Pairs, ticks: np.ndarray) -> float:
    """Radii as they were seen over radii as they were told."""
    shares = [seen.radii / (thing.radius * path(thing, ticks)[seen.frames, 3]) for thing, seen in pairs]
    return float(np.clip(np.median(np.concatenate(shares)), LEAST_MAGNIFIED, MOST_MAGNIFIED))


def _way(thing: Thing, seen: Seen, ticks: np.ndarray, closer: float) -> _Way:
    middle = path(thing, np.array([(ticks[0] + ticks[-1]) / 2]))[0]
    told = path(thing, ticks)[seen.frames]
    growth = np.log(seen.radii / told[:, 3])
    return _Way(
        frames=seen.frames - (len(ticks) - 1) / 2,
        own=closer * (told[:, :2] - middle[:2]),
        seen=seen.centres - 0.5,
        growth=growth - growth.mean(),
    )


def _astray(guess: np.ndarray, ways: Sequence[_Way], rolls: bool) -> np.ndarray:
    """How far a pan, a tilt, a growth and a roll per frame, and the places of things in the middle of the
    clip, are from what was seen, in errors of the oracle."""
    shift, growth, roll = guess[:2], guess[2], guess[3]
    parts = [np.zeros(0) if rolls else np.array([roll])]
    for way, place in zip(ways, guess[4:].reshape(-1, 2), strict=True):
        where = way.own + place
        cos, sin = np.cos(roll * way.frames), np.sin(roll * way.frames)
        turned = np.stack([cos * where[:, 0] + sin * where[:, 1], cos * where[:, 1] - sin * where[:, 0]], 1)
        shown = np.exp(growth * way.frames)[:, None] * turned - way.frames[:, None] * shift
        grown = growth * (way.frames - way.frames.mean())
        parts += [((shown - way.seen) / _PLACE).ravel(), (grown - way.growth) / _GROWTH]
    return np.concatenate(parts)
