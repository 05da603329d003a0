"""One clip and its task into one row of plain numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vgen.metrics.kinds import text
from vgen.metrics.metric import Metric, Numbers
from vgen.metrics.task import Task
from vgen.toybox.oracle import Facts

METRICS = text.KIND.metrics


def score(
    video: np.ndarray, task: Task, facts: Facts | None = None, reconstruction: np.ndarray | None = None
) -> Numbers:
    """``video`` uint8 f h w 3 with the frames that the task asks for; a single frame is scored as a still.
    ``facts`` are what the oracle reads in it, if it has read it already. ``reconstruction`` uint8 f h w 3 is
    ``task.kind.through_codec`` of the task through the model's encoder and decoder: what these lose is not
    held against a clip."""
    if len(video) != task.scene.num_frames:
        raise ValueError(
            f"clip {task.id} has {len(video)} frames where its task asks for {task.scene.num_frames}; "
            "sample it again"
        )
    if reconstruction is None:
        return task.kind.score(video, task, facts)
    if task.kind.through_codec is None:
        raise ValueError(
            f"clip {task.id} is of kind {task.kind.name}, which has no source to reconstruct; leave the "
            "reconstruction out"
        )
    return task.kind.score(video, task, facts, reconstruction)


def metrics_of(todo: Sequence[Task]) -> tuple[Metric, ...]:
    """Every metric that scores these tasks, each once."""
    return tuple(dict.fromkeys(metric for task in todo for metric in task.kind.metrics))
