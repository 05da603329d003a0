"""The audit of an evaluation: do two readers that share no code see the same in its clips? (reference: oracle evaluation, 4.6)

On the truth they agree on all of 200 clips (benchmarks/calibration.py only=readers rows=truth n=160). A picture that was made to please one
reader, or that neither was built for, divides them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from vgen.metrics.statistics import Interval, interval
from vgen.metrics.task import Task
from vgen.toybox.oracle import read
from vgen.toybox.oracle.audit import Disagreement, audit, disagreements
from vgen.toybox.scenes import SOLIDS, Kind

LEAST_ON_TRUTH, LEAST_ON_CLIPS = 0.99, 0.95


@dataclass(frozen=True, slots=True)
class Agreement:
    """``share`` of clips in which both readers see the same ground and the same things; ``apart``: what divides them, by task id."""

    share: Interval
    apart: dict[str, list[Disagreement]]

    @property
    def enough(self) -> bool:
        """Of generated clips; a smaller share is a reason to look at ``apart`` before believing any figure."""
        return self.share.mean is not None and self.share.mean >= LEAST_ON_CLIPS


def agreement(clips: Iterable[tuple[Task, np.ndarray]]) -> Agreement:
    """Videos are uint8 f h w 3, one at a time in memory. Raises ValueError for tasks of figures, sprites or textures, which the second
    reader does not know."""
    same, groups, apart = [], [], {}
    for task, video in clips:
        if not can_audit(task):
            raise ValueError(f"the second reader knows shapes on solid grounds, task {task.id} has others; leave it out of the audit")
        found = disagreements(read(video, task.scene.stride_ticks), audit(video, task.scene.stride_ticks))
        same.append(float(not found))
        groups.append(task.group)
        if found:
            apart[task.id] = found
    return Agreement(interval(same, groups), apart)


def can_audit(task: Task) -> bool:
    """Whether the second reader knows all that the task asks for: shapes on a solid ground."""
    return task.scene.ground in SOLIDS and all(t.kind is Kind.SHAPE for t in task.scene.things)
