"""TRAJ, of O1: where a path is prescribed (by a control), is it kept? (reference: oracle evaluation, 4.4)"""

from __future__ import annotations

import numpy as np

from vgen.metrics.matching import match
from vgen.metrics.metric import Metric, Numbers
from vgen.toybox.motion import paths
from vgen.toybox.oracle import Facts
from vgen.toybox.scenes import Scene

METRIC = Metric(
    "toybox/trajectory", 1, "ADE: mean distance from the true path, and the share of clips within .05 widths"
)
NEAR, LOST = 0.05, 0.5  # canvas widths: a kept path, and how far away a thing is that is not there


def trajectory(facts: Facts, scene: Scene) -> Numbers:
    """``ade``: mean over things and frames of the distance between the seen and the true centroid, in canvas
    widths, .5 where there is none; ``on_path``: 1 if that is at most .05. A scene without things prescribes
    no path."""
    if not scene.things:
        return {"ade": None, "on_path": None}
    ade = float(distances(facts, scene).mean())
    return {"ade": ade, "on_path": float(ade <= NEAR)}


def distances(facts: Facts, scene: Scene) -> np.ndarray:
    """``n f``: of every thing from its true centroid in canvas widths, .5 where it was not seen."""
    truth = paths(scene)[..., :2]
    far = np.full(truth.shape[:2], LOST)
    for i, (_, seen) in enumerate(match(facts, scene)):
        if seen is not None:
            far[i, seen.frames] = np.minimum(
                np.linalg.norm(seen.centres - truth[i, seen.frames], axis=-1), LOST
            )
    return far
