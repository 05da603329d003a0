"""Which thing that was asked for is which thing that was seen: the assignment under which most attributes
agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from vgen.toybox.oracle import Facts, Seen
from vgen.toybox.scenes import Motion, Scene, Thing

ATTRIBUTES = ("colour", "shape", "size", "motion", "speed")
STILL_ATTRIBUTES = ATTRIBUTES[:3]


def match(facts: Facts, scene: Scene) -> list[tuple[Thing, Seen | None]]:
    """Every thing of ``scene`` with its counterpart, or None; ties go to the longer track."""
    pairs: list[tuple[Thing, Seen | None]] = [(thing, None) for thing in scene.things]
    if not facts.things or not scene.things:
        return pairs
    gain = [
        [
            sum(agrees(t, s, a) for a in ATTRIBUTES) + 0.01 * len(s.frames) / facts.num_frames
            for s in facts.things
        ]
        for t in scene.things
    ]
    for i, j in zip(*linear_sum_assignment(np.array(gain), maximize=True), strict=True):
        pairs[i] = (scene.things[i], facts.things[j])
    return pairs


def agrees(thing: Thing, seen: Seen | None, attribute: str) -> bool:
    return seen is not None and getattr(thing, attribute) is getattr(seen, attribute)


def asks(thing: Thing, attribute: str, unspecified: Sequence[str]) -> bool:
    """Whether the caption says it: open factors may take any value, and what stays still has no speed."""
    return attribute not in unspecified and not (attribute == "speed" and thing.motion is Motion.STATIC)
