"""One clip and its task into one row of plain numbers."""

from __future__ import annotations

import numpy as np

from vgen.metrics import coherence as _coherence
from vgen.metrics import temporal_consistency as _consistency
from vgen.metrics import text_accuracy as _accuracy
from vgen.metrics.coherence import coherence
from vgen.metrics.metric import Numbers
from vgen.metrics.suite import Task
from vgen.metrics.temporal_consistency import temporal_consistency
from vgen.metrics.text_accuracy import image_accuracy, text_accuracy
from vgen.toybox.oracle import Facts, read

METRICS = (_accuracy.METRIC, _consistency.METRIC, _coherence.METRIC)


def score(video: np.ndarray, task: Task, facts: Facts | None = None) -> Numbers:
    """``video`` uint8 f h w 3 with the frames that the task asks for; a single frame is scored as a still. ``facts`` are what the oracle
    reads in it, if it has read it already."""
    if len(video) != task.scene.num_frames:
        raise ValueError(f"clip {task.id} has {len(video)} frames where its task asks for {task.scene.num_frames}; sample it again")
    facts = facts or read(video, task.scene.stride_ticks)
    if len(video) == 1:
        return image_accuracy(facts, task.scene, task.unspecified)
    return {
        **text_accuracy(facts, task.scene, task.unspecified),
        **temporal_consistency(facts, task.scene, video),
        **coherence(facts, video),
    }
