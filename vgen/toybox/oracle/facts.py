"""Tracks into facts: what is there, what it looks like and how it moves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from vgen.toybox.oracle.grounds import read_backdrop
from vgen.toybox.oracle.parse import Blob, parse
from vgen.toybox.oracle.shapes import SHAPES
from vgen.toybox.oracle.tracks import Track, track
from vgen.toybox.scenes import DIRECTION, RADIUS, SPEED, Colour, Ground, Motion, Shape, Size, Speed

T = TypeVar("T", bound=Hashable)
STILL = 0.004  # canvas widths per tick below which nothing moves: well under half of slow
STILL_RMS, STRAIGHT_RMS = 0.03, 0.05  # widths
# of its own length that a straight path may stray: a slow one still goes its way when jittered by two pixels
# of 64
CROOKED = 0.25
FEWEST_FRAMES = 4  # a track shorter than this (or than the clip) is a glitch, not a thing


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One thing as the oracle saw it. ``frames`` k; ``centres`` k 2 and ``radii`` k in canvas widths, of what
    could be seen; ``velocity`` 2 in widths per tick. ``motion`` None: it moved, but not as anything of the
    core world does (or the video is a still). ``outlines`` k: soft IoU of what could be seen with its best
    template, ``contacts`` k: share of its rim that lies on other bodies."""

    colour: Colour
    shape: Shape
    size: Size
    motion: Motion | None
    speed: Speed | None
    frames: np.ndarray
    centres: np.ndarray
    radii: np.ndarray
    velocity: np.ndarray
    rms: float
    colours: list[Colour]
    shapes: list[Shape]
    outlines: np.ndarray
    contacts: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """``blobs``: every body of every frame on its own, glitches too; ``counts unexplained`` f; ``covered``
    bool f h w: bodies and marks, ``bodies`` without marks; ``num_tracks`` counts glitches too."""

    ground: Ground | None
    things: list[Seen]
    blobs: list[Blob]
    counts: np.ndarray
    unexplained: np.ndarray
    covered: np.ndarray
    bodies: np.ndarray
    num_tracks: int

    @property
    def num_frames(self) -> int:
        return len(self.counts)


def read(video: np.ndarray, stride_ticks: int = 1) -> Facts:
    """``video`` uint8 f h w 3; ``stride_ticks`` is the time between its frames."""
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or 0 in video.shape:
        raise ValueError(
            f"the oracle reads uint8 f h w 3, got {video.dtype} {video.shape}; round and clip the video first"
        )
    pixels = video.astype(np.float32) / 255
    backdrop = read_backdrop(pixels)
    parsed = parse(pixels, backdrop)
    tracks = track(parsed.blobs, len(video))
    lasting = [t for t in tracks if len(t.blobs) >= min(FEWEST_FRAMES, len(video))]
    counts = np.bincount([b.frame for b in parsed.blobs], minlength=len(video))
    return Facts(
        ground=backdrop.ground,
        things=[_seen(t, len(video), stride_ticks) for t in lasting],
        blobs=parsed.blobs,
        counts=counts,
        unexplained=parsed.unexplained,
        covered=parsed.covered,
        bodies=parsed.bodies,
        num_tracks=len(tracks),
    )


def read_image(image: np.ndarray) -> Facts:
    """Facts of one picture, uint8 h w 3: no motion, no speed."""
    return read(image[None])


def _seen(track: Track, num_frames: int, stride_ticks: int) -> Seen:
    blobs = track.blobs
    frames = np.array([b.frame for b in blobs])
    centres = np.array([(b.x, b.y) for b in blobs])
    radii = np.array([b.radius for b in blobs])
    velocity, rms = _line(frames * stride_ticks, centres)
    whole = [
        b for b in blobs if b.whole
    ] or blobs  # what is hidden now is read from the frames in which it is not, or could be completed
    motion = _motion(velocity, rms, (num_frames - 1) * stride_ticks) if num_frames > 1 else None
    return Seen(
        colour=_mode([b.colour for b in blobs]),
        shape=SHAPES[int(np.sum([b.ious for b in whole], 0).argmax())],
        size=size_of(float(np.median([b.full_radius for b in whole]))),
        motion=motion,
        speed=_nearest(float(np.hypot(*velocity)), SPEED) if motion in DIRECTION else None,
        frames=frames,
        centres=centres,
        radii=radii,
        velocity=velocity,
        rms=rms,
        colours=[b.colour for b in blobs],
        shapes=[b.shape for b in blobs],
        outlines=np.array([b.outline for b in blobs]),
        contacts=np.array([b.contact for b in blobs]),
    )


def size_of(radius: float) -> Size:
    """Class of a radius in canvas widths."""
    return _nearest(radius, RADIUS)


def motion_of(ticks: np.ndarray, centres: np.ndarray, duration_ticks: int) -> Motion | None:
    """How something moved that was at ``centres`` k 2 (canvas widths) at ``ticks`` k of a clip of
    ``duration_ticks``."""
    velocity, rms = _line(ticks, centres)
    return _motion(velocity, rms, duration_ticks)


def _line(ticks: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, float]:
    """Least-squares velocity, and how far the path strays from the line (root mean square)."""
    t = ticks - ticks.mean()
    if len(t) < 2:
        return np.zeros(2), 0.0
    velocity = t @ centres / (t @ t)
    stray = centres - centres.mean(0) - t[:, None] * velocity
    return velocity, float(np.sqrt((stray**2).sum(1).mean()))


def _motion(velocity: np.ndarray, rms: float, duration_ticks: int) -> Motion | None:
    """Limits are rates, so that a clip of 14 ticks is judged like one of 15 and one of 60 like both."""
    speed = float(np.hypot(*velocity))
    longer = max(1.0, duration_ticks / 15)
    if speed < STILL:
        return Motion.STATIC if rms < STILL_RMS else None
    if rms > min(STRAIGHT_RMS * longer, max(0.01, CROOKED * speed * duration_ticks)):
        return None
    motion = max(DIRECTION, key=lambda m: float(velocity @ DIRECTION[m]))
    return motion if velocity @ DIRECTION[motion] >= math.cos(math.pi / 8) * speed else None


def _mode(values: Sequence[T]) -> T:
    return Counter(values).most_common(1)[0][0]


def _nearest(value: float, classes: Mapping[T, float]) -> T:
    """Class whose value is nearest in ratio: boundaries are the geometric means."""
    return min(classes, key=lambda c: abs(math.log(max(value, 1e-9) / classes[c])))
