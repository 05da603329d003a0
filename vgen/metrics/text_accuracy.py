"""O1: does the clip show what its caption says? (reference: oracle evaluation, 4.4)

EXACT, the headline, is the product of everything: each attribute of each thing, the count in three frames of
four, the ground, and less than 2 % of the picture that is neither thing nor ground. A thing that was not
found scores zero everywhere; no clip is ever dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from vgen.metrics.matching import ATTRIBUTES, STILL_ATTRIBUTES, agrees, asks, match
from vgen.metrics.metric import Metric, Numbers
from vgen.toybox.oracle import Facts
from vgen.toybox.scenes import CORE_MOTIONS, SPEED, Colour, Motion, Scene, Shape, Size

METRIC = Metric("toybox/text-accuracy", 3, "attribute accuracies, EXACT, BIND; unmatched things score zero")
CHANCE = {
    "colour": 1 / len(Colour),
    "shape": 1 / len(Shape),
    "size": 1 / len(Size),
    "motion": 1 / len(CORE_MOTIONS),
    "speed": 1 / len(SPEED),
}
FEWEST_RIGHT_COUNTS = 0.75
MOST_UNEXPLAINED = 0.02


def text_accuracy(facts: Facts, scene: Scene, unspecified: Sequence[str] = ()) -> Numbers:
    """``colour shape size motion speed``: share of things that agree; ``motion_moving``: the same over things
    that should move, which no frozen clip can earn; ``count``: share of frames with the right number;
    ``ground``; ``exact`` and ``exact_without_speed``; ``exact_image``: all that a still can show; ``bind``:
    EXACT where the colours and the shapes are there (two things or more)."""
    pairs = match(facts, scene)
    out: Numbers = {}
    for a in ATTRIBUTES:
        marks = [agrees(t, s, a) for t, s in pairs if asks(t, a, unspecified)]
        out[a] = sum(marks) / len(marks) if marks else None
    moving = [
        agrees(t, s, "motion")
        for t, s in pairs
        if t.motion is not Motion.STATIC and asks(t, "motion", unspecified)
    ]
    out["motion_moving"] = sum(moving) / len(moving) if moving else None
    out["count"] = count = float((facts.counts == len(scene.things)).mean())
    out["ground"] = None if "ground" in unspecified else float(facts.ground is scene.ground)
    out["unexplained"] = unexplained = float(facts.unexplained.mean())
    stage = count >= FEWEST_RIGHT_COUNTS and out["ground"] != 0 and unexplained < MOST_UNEXPLAINED
    out["exact"] = _all(out, ATTRIBUTES, stage)
    out["exact_without_speed"] = _all(out, ATTRIBUTES[:-1], stage)
    out["exact_image"] = _all(out, STILL_ATTRIBUTES, stage)
    out["bind"] = out["exact"] if len(scene.things) > 1 and _same_parts(facts, scene) else None
    return out


def image_accuracy(facts: Facts, scene: Scene, unspecified: Sequence[str] = ()) -> Numbers:
    """The same for a still: nothing that needs time."""
    timed = ("motion", "motion_moving", "speed", "exact", "exact_without_speed", "bind")
    return {k: v for k, v in text_accuracy(facts, scene, unspecified).items() if k not in timed}


def chance_corrected(attribute: str, accuracy: float) -> float:
    """0 is guessing, 1 is right: (a - 1/K) / (1 - 1/K)."""
    return (accuracy - CHANCE[attribute]) / (1 - CHANCE[attribute])


def _all(numbers: Numbers, attributes: Sequence[str], stage: bool) -> float:
    return float(stage and all(numbers[a] in (None, 1.0) for a in attributes))


def _same_parts(facts: Facts, scene: Scene) -> bool:
    """The multisets of colours and of shapes are those of the scene, whichever belongs to whom."""
    return all(
        Counter(getattr(s, a) for s in facts.things) == Counter(getattr(t, a) for t in scene.things)
        for a in ("colour", "shape")
    )
