"""The audit of an evaluation: do two readers that share no code see the same in its clips? (reference: oracle
evaluation, 4.6)

On the truth they agree on all of 200 clips (benchmarks/calibration.py only=readers rows=truth n=160). A
picture that was made to please one reader, or that neither was built for, divides them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from vgen.metrics.matching import ATTRIBUTES, STILL_ATTRIBUTES
from vgen.metrics.statistics import Interval, interval
from vgen.metrics.task import Task
from vgen.toybox.oracle import Facts, read
from vgen.toybox.oracle.audit import Audit, Disagreement, audit, disagreements
from vgen.toybox.scenes import SOLIDS, Camera, Kind

LEAST_ON_TRUTH, LEAST_ON_CLIPS = 0.99, 0.95


@dataclass(frozen=True, slots=True)
class Agreement:
    """``share`` of clips in which both readers see the same ground and the same things; ``verdict``: share of
    those in which they find alike that all the caption says but speeds is there, or that it is not (a
    half-drawn star may be a circle to one and a square to the other, and is wrong to both); ``apart``: what
    divides them, by task id."""

    share: Interval
    verdict: Interval
    apart: dict[str, list[Disagreement]]

    @property
    def enough(self) -> bool:
        """Of generated clips; a smaller share is a reason to look at ``apart`` before believing any
        figure."""
        return self.share.mean is not None and self.share.mean >= LEAST_ON_CLIPS


def agreement(clips: Iterable[tuple[Task, np.ndarray]]) -> Agreement:
    """Videos are uint8 f h w 3, one at a time in memory. Raises ValueError for tasks of figures, sprites or
    textures, which the second reader does not know."""
    same, verdicts, groups, apart = [], [], [], {}
    for task, video in clips:
        if not can_audit(task):
            raise ValueError(
                f"the second reader knows shapes on solid grounds, task {task.id} has others; leave it out "
                "of the audit"
            )
        first, second = read(video, task.scene.stride_ticks), audit(video, task.scene.stride_ticks)
        found = disagreements(first, second)
        same.append(float(not found))
        verdicts.append(float(_right(first, task) == _right(second, task)))
        groups.append(task.group)
        if found:
            apart[task.id] = found
    return Agreement(interval(same, groups), interval(verdicts, groups), apart)


def _right(seen: Facts | Audit, task: Task) -> bool:
    known = ATTRIBUTES[:4] if task.scene.num_frames > 1 else STILL_ATTRIBUTES
    asked = [a for a in known if a not in task.unspecified]
    shown, told = (
        Counter(tuple(getattr(t, a) for a in asked) for t in things)
        for things in (seen.things, task.scene.things)
    )
    return shown == told and ("ground" in task.unspecified or seen.ground is task.scene.ground)


def can_audit(task: Task) -> bool:
    """Whether the second reader knows all that the task asks for: shapes on a solid ground, before a camera
    at rest."""
    scene = task.scene
    rests = scene.camera == Camera()
    return rests and scene.ground in SOLIDS and all(t.kind is Kind.SHAPE for t in scene.things)
