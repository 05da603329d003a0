"""A clip as a point: twelve numbers per thing, from a scene exactly and from a video as the oracle read
it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.spatial import cKDTree

from vgen.metrics.matching import match
from vgen.toybox.motion import paths, ticks_of
from vgen.toybox.oracle import Facts
from vgen.toybox.scenes import RGB, Colour, Scene, Thing

STATE = (
    "x_first",
    "y_first",
    "x_middle",
    "y_middle",
    "x_last",
    "y_last",
    "radius_first",
    "radius_last",
    "stray",
    "red",
    "green",
    "blue",
)
LOST = np.full(len(STATE), -0.5)
"""A thing that was not found: off the canvas, so that distances punish it and all of them are alike."""


def scene_states(scene: Scene) -> np.ndarray:
    """``n 12``: places and radii in canvas widths, distance from a straight path (root mean square), colour
    in 0..1."""
    truth = paths(scene)
    return np.array(
        [
            _state(p[:, :2], t.radius * p[:, 3], ticks_of(scene), t.colour)
            for t, p in zip(scene.things, truth, strict=True)
        ]
    )


def seen_states(facts: Facts, scene: Scene) -> np.ndarray:
    """``n 12`` of the counterparts of the scene's things; LOST where there is none."""
    out = []
    for _, seen in match(facts, scene):
        if seen is None:
            out.append(LOST)
            continue
        wide = np.arange(facts.num_frames)
        centres = np.stack([np.interp(wide, seen.frames, c) for c in seen.centres.T], 1)
        out.append(_state(centres, np.interp(wide, seen.frames, seen.radii), ticks_of(scene), seen.colour))
    return np.array(out)


def _state(centres: np.ndarray, radii: np.ndarray, ticks: np.ndarray, colour: Colour) -> np.ndarray:
    t = ticks - ticks.mean()
    slope = t @ centres / (t @ t) if len(t) > 1 else np.zeros(2)
    stray = np.sqrt((np.square(centres - centres.mean(0) - t[:, None] * slope)).sum(1).mean())
    middle = len(centres) // 2
    return np.concatenate(
        [centres[0], centres[middle], centres[-1], [radii[0], radii[-1], stray], np.array(RGB[colour]) / 255]
    )


def near_duplicates(
    training: Iterable[Scene], evaluation: Sequence[Scene], nearest: float = 0.02
) -> list[tuple[int, int, float]]:
    """Evaluation scenes that training has all but seen: (evaluation index, training index, distance) where
    every thing, ground and shape agree and states differ by less than ``nearest`` (euclidean, per thing). One
    entry per evaluation scene, its nearest."""
    buckets: dict[tuple, list[tuple[int, np.ndarray]]] = {}
    for i, scene in enumerate(training):
        key, state = _key(scene)
        buckets.setdefault(key, []).append((i, state))
    trees = {
        key: (cKDTree(np.stack([s for _, s in rows])), [i for i, _ in rows]) for key, rows in buckets.items()
    }
    found = []
    for j, scene in enumerate(evaluation):
        key, state = _key(scene)
        if key in trees:
            tree, indices = trees[key]
            distance, at = tree.query(state)
            if distance < nearest * np.sqrt(max(1, len(scene.things))):
                found.append((j, indices[int(at)], float(distance)))
    return found


def _key(scene: Scene) -> tuple[tuple, np.ndarray]:
    """What must agree exactly, and the states of the things in a fixed order."""
    order = sorted(scene.things, key=lambda t: (t.kind.value, t.colour.value, t.shape.value))
    states = [scene_states(_canonical(scene, t))[0] for t in order]
    key = (
        scene.ground,
        tuple((t.kind, t.colour, t.shape, t.motion, t.second, t.code, t.action) for t in order),
    )
    return key, np.concatenate(states) if states else np.zeros(1)


def _canonical(scene: Scene, thing: Thing) -> Scene:
    """One thing alone over the canonical clip: another number of frames does not hide a copy."""
    return Scene(things=(thing,), camera=scene.camera)
