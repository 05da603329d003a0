"""REL, of O1: do two things stand to each other as the caption says? (reference: oracle evaluation, 4.4)

*Above* and *left of* are read from the centres: the way from one to the other must lie within 45 degrees of
the axis. *In front of* is read from the outlines: the two touch, and the one in front is the one whose
outline is whole.
"""

from __future__ import annotations

import numpy as np

from vgen.metrics.matching import match
from vgen.metrics.metric import Metric, Numbers
from vgen.toybox.oracle import Facts, Seen
from vgen.toybox.scenes import Relation, Scene

METRIC = Metric("toybox/relations", 1, "REL: share of captions whose relation holds in three frames of four")
FEWEST_FRAMES = 0.75
TOUCHING = 0.05  # of the rim: less is a neighbour


def relation_accuracy(facts: Facts, scene: Scene) -> Numbers:
    """``rel_frames``: share of frames in which the relation holds (a frame that lacks one of the two is one
    in which it does not), ``rel``: 1 if that is three quarters; None where the caption names no relation."""
    if scene.relation is None:
        return {"rel": None, "rel_frames": None}
    (_, subject), (_, other) = match(facts, scene)[:2]
    share = (
        float(_holds(scene.relation, subject, other).sum()) / facts.num_frames if subject and other else 0.0
    )
    return {"rel": float(share >= FEWEST_FRAMES), "rel_frames": share}


def _holds(relation: Relation, first: Seen, second: Seen) -> np.ndarray:
    """bool, over the frames that show both. ``first`` is above, left of, or behind ``second``, as the
    renderer draws it."""
    _, i, j = np.intersect1d(first.frames, second.frames, return_indices=True)
    x, y = (second.centres[j] - first.centres[i]).T
    match relation:
        case Relation.ABOVE:
            return y > np.abs(x)
        case Relation.LEFT_OF:
            return x > np.abs(y)
        case Relation.IN_FRONT_OF:
            return (np.minimum(first.contacts[i], second.contacts[j]) > TOUCHING) & (
                second.outlines[j] > first.outlines[i]
            )
