"""Does the clip show the camera motion that is asked for, and what its caption says as well?

Things alone show a camera over a plain ground. Size and speed are left out: what a camera sees from closer is
larger and faster.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from vgen.metrics.matching import match
from vgen.metrics.metric import Metric, Numbers
from vgen.metrics.text_accuracy import FEWEST_RIGHT_COUNTS, MOST_UNEXPLAINED, text_accuracy
from vgen.toybox.motion import ticks_of, unseen
from vgen.toybox.oracle import Facts
from vgen.toybox.oracle.camera import CameraMotion, read_camera
from vgen.toybox.oracle.facts import motion_of
from vgen.toybox.scenes import Camera, Scene

METRIC = Metric(
    "toybox/camera", 1, "the camera's pan, tilt, zoom and roll; how near they are to those asked; the caption"
)
RIM = 0.5  # widths from the middle: where zoom and roll are told by how far they move what is seen
STEADY = 0.01  # widths a frame: where no motion is asked, the camera may not be off by this


def camera_numbers(facts: Facts, scene: Scene, size_px: int) -> Numbers:
    """``pan`` to the right and ``tilt`` downwards in pixels, ``zoom`` in percent of growth, ``roll`` in
    degrees clockwise, of the camera, from each frame to the next; None where too few things were seen.

    ``follows``: 1 less the distance to the camera that is asked, over that camera's own motion, at the rim;
    ``caption_holds``: colours, shapes, count and ground are right; ``motion_held``: share of things that go
    their way once the camera that is asked is taken out; ``filmed``: ``follows`` where the caption holds.
    """
    still = replace(scene, camera=Camera())
    pairs = [(thing, seen) for thing, seen in match(facts, still) if seen is not None]
    found = read_camera(pairs, ticks_of(scene))
    follows = 0.0 if found is None else _follows(found, scene)
    told = text_accuracy(facts, still)
    holds = _holds(told)
    parts = ("colour", "shape", "count", "ground", "unexplained")
    return {
        **_shown(found, size_px),
        "follows": follows,
        "caption_holds": holds,
        "motion_held": _motion_held(facts, scene),
        "filmed": follows * holds,
        **{part: told[part] for part in parts},
    }


def _shown(found: CameraMotion | None, size_px: int) -> Numbers:
    if found is None:
        return dict.fromkeys(("pan", "tilt", "zoom", "roll"))
    return {
        "pan": found.pan * size_px,
        "tilt": found.tilt * size_px,
        "zoom": 100 * (found.zoom - 1),
        "roll": None if found.roll is None else math.degrees(found.roll),
    }


def _follows(found: CameraMotion, scene: Scene) -> float:
    """0..1; a roll that can't be told is none."""
    asked = _asked(scene)
    seen = np.array([found.pan, found.tilt, RIM * math.log(found.zoom), RIM * (found.roll or 0.0)])
    own = max(float(np.linalg.norm(asked)), STEADY)
    return max(0.0, 1 - float(np.linalg.norm(seen - asked)) / own)


def _asked(scene: Scene) -> np.ndarray:
    """Pan, tilt, zoom and roll per frame as they are in the middle of the clip: what has been panned by then
    is zoomed, too."""
    camera, middle = scene.camera, float(ticks_of(scene)[-1]) / 2
    growth = math.log(camera.zoom)
    panned = np.array([camera.pan_x, camera.pan_y]) * (1 - growth * middle)
    return scene.stride_ticks * np.array([*panned, RIM * growth, 0.0])


def _holds(told: Numbers) -> float:
    """1 where all is right that a camera leaves as it is."""
    count, unexplained = told["count"] or 0.0, told["unexplained"] or 0.0
    said = all(told[part] == 1 for part in ("colour", "shape", "ground"))
    return float(said and count >= FEWEST_RIGHT_COUNTS and unexplained < MOST_UNEXPLAINED)


def _motion_held(facts: Facts, scene: Scene) -> float | None:
    """Share of things; one that was not found does not go its way."""
    ticks, right = ticks_of(scene), []
    for thing, seen in match(facts, replace(scene, camera=Camera())):
        if seen is None:
            right.append(False)
            continue
        then = ticks[seen.frames]
        world = np.stack([unseen(scene.camera, i, seen.centres[:, i], then) for i in (0, 1)], 1)
        right.append(motion_of(then, world, int(ticks[-1])) is thing.motion)
    return float(np.mean(right)) if right else None
