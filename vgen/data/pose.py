"""Poses: float32 ``f p j 3``, of every frame's people the joints' x and y in shares of width and height, and
a confidence.

A joint whose x or y is nan, or whose confidence is 0, is missing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vgen.data.mp4 import MAX_BYTES

_COCO = [(1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)]
_COCO_NECK = [(2, 5), (3, 6), (4, 7), (8, 11), (9, 12), (10, 13), (14, 15), (16, 17)]
_BODY = [
    (2, 5),
    (3, 6),
    (4, 7),
    (9, 12),
    (10, 13),
    (11, 14),
    (15, 16),
    (17, 18),
    (19, 22),
    (20, 23),
    (21, 24),
]
_BLAZE = [(1, 4), (2, 5), (3, 6), *((left, left + 1) for left in range(7, 33, 2))]
SIDES = {17: _COCO, 18: _COCO_NECK, 25: _BODY, 33: _BLAZE}
"""Pairs of joints that are each other's left and right, by the number of joints."""
FARTHEST = 1.0
"""How far a joint may lie outside the picture, in its widths and heights; more must be pixels."""


def flaw(pose: np.ndarray) -> str:
    """What is wrong with a pose of the right axes and type; empty where nothing is."""
    if pose.shape[2] not in SIDES:
        return (
            f"pose has {pose.shape[2]} joints; 17 (COCO), 18 (COCO + neck), 25 (BODY-25) or 33 "
            "(BlazePose) are known, so convert it to one of these"
        )
    missing = np.isnan(pose[..., :2]).any(-1) | (pose[..., 2] == 0)
    if missing.all():
        return "pose shows no joint in the whole clip; leave out the clip, or find its poses again"
    far = np.abs(pose[..., :2] - 0.5)[~missing].max()
    if not far <= 0.5 + FARTHEST:
        return (
            f"pose has a joint {far:g} widths or heights from the centre, at most {0.5 + FARTHEST:g} are "
            "allowed; divide x by the width and y by the height, or give who is out of the picture "
            "confidence 0"
        )
    return ""


def mirrored(pose: np.ndarray) -> np.ndarray:
    """Left and right joints exchanged, and x from the other side; what is missing stays so."""
    order = np.arange(pose.shape[2])
    for left, right in SIDES[pose.shape[2]]:
        order[[left, right]] = right, left
    out = pose[:, :, order]  # f p j 3, a copy
    out[..., 0] = 1 - out[..., 0]
    return out


def of_people(frames: list[Any]) -> np.ndarray:
    """A pose from OpenPose's JSON, one object a frame: ``people`` with ``pose_keypoints_2d``, and
    ``canvas_width`` and ``canvas_height`` where x and y are pixels. People may also be a list of objects with
    ``keypoints``.

    A joint without confidence is missing.
    """
    rows = [[_joints(person) for person in _people(frame)] for frame in frames]
    pose = from_lists(rows)
    pose[..., :2] /= np.array([canvas_of(frame) for frame in frames], np.float32)[:, None, None]
    pose[~(pose[..., 2] > 0)] = np.nan
    wrong = flaw(pose)
    if wrong:
        raise ValueError(f"key points: {wrong}; canvas_width and canvas_height in the JSON do it, too")
    return pose


def on_square(pose: np.ndarray, frames: list[Any], pads: bool) -> np.ndarray:
    """A pose of :func:`of_people` in shares of a square: the middle of the canvas or, padded, around all of
    it."""
    sizes = np.array([canvas_of(frame) for frame in frames], np.float32)  # f 2
    side = sizes.max(1, keepdims=True) if pads else sizes.min(1, keepdims=True)
    out = pose.copy()
    out[..., :2] = (pose[..., :2] - 0.5) * (sizes / side)[:, None, None] + 0.5
    return out


def _people(frame: Any) -> list[Any]:
    people = frame.get("people") if isinstance(frame, dict) else frame
    if isinstance(frame, dict) and "keypoints" in frame:
        people = [frame]
    if not isinstance(people, list):
        raise ValueError("key points must be OpenPose's: an object with people, each with pose_keypoints_2d")
    return people


def _joints(person: Any) -> list[list[float]]:
    """Of one person, each ``[x, y, confidence]``."""
    found = person.get("pose_keypoints_2d", person.get("keypoints")) if isinstance(person, dict) else None
    if not isinstance(found, list) or (found and not isinstance(found[0], list) and len(found) % 3):
        raise ValueError("people must have pose_keypoints_2d, x, y and confidence of each joint")
    if found and not isinstance(found[0], list):
        return [found[i : i + 3] for i in range(0, len(found), 3)]
    return found


def canvas_of(frame: Any) -> tuple[float, float]:
    """Width and height that x and y of a frame are to be divided by; 1 and 1 where they are shares."""
    if not isinstance(frame, dict):
        return 1.0, 1.0
    return float(frame.get("canvas_width", 1)), float(frame.get("canvas_height", 1))


def from_lists(frames: Any) -> np.ndarray:
    """A pose from nested lists: frames, their people, their joints, each ``[x, y, confidence]``; null is nan.

    Frames may show different numbers of people: the missing ones are nan.
    """
    try:
        people = [[np.array(person, np.float64) for person in frame] for frame in frames]
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            "it must hold a list of frames, each a list of people, each a list of [x, y, confidence]"
        ) from error
    shapes = sorted({person.shape for frame in people for person in frame})
    if not shapes:
        raise ValueError(
            f"none of its {len(people)} frames shows a person; find the poses again, or give another file"
        )
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise ValueError(f"all people must have the same joints, each [x, y, confidence], got {shapes}")
    shape = (len(people), max(map(len, people)), *shapes[0])
    if math.prod(shape) * 4 > MAX_BYTES:
        raise ValueError(f"as an array it has {math.prod(shape) * 4:,} bytes where {MAX_BYTES:,} are allowed")
    out = np.full(shape, np.nan, np.float32)
    for frame, row in zip(people, out, strict=True):
        for i, person in enumerate(frame):
            row[i] = np.clip(person, -1e30, 1e30)
    return out
