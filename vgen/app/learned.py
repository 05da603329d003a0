"""Metrics that look through a network, over the clips of an evaluation. What has no weights here is skipped with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vgen.app.clip_store import ClipStore, truth
from vgen.metrics.learned.clips import Clips
from vgen.metrics.learned.measure import measure
from vgen.metrics.learned.registry import catalogue, find
from vgen.metrics.learned.settings import LearnedMetrics
from vgen.metrics.task import Task


def check(names: Sequence[str], settings: LearnedMetrics, num_clips: int, num_frames: int) -> None:
    """Refuse unknown names, and too few clips for a metric, before anything is drawn."""
    blank = np.zeros((num_frames, 8, 8, 3), np.uint8)
    few = Clips(videos=[blank] * num_clips, references=[blank] * num_clips)
    refusals = [why for plugin in find(names) if (why := plugin.refusal(few, settings.minimums))]
    if refusals:
        raise ValueError("; ".join(refusals) + "; give more with n=, or leave these metrics out")


def measured(
    store: ClipStore, name: str, todo: Sequence[Task], names: Sequence[str], settings: LearnedMetrics, codec: str
) -> dict[str, Any]:
    """Result by metric, as plain data. What a perfect answer would be stands as reference, the clip to edit as source."""
    videos = [store.read(name, task) for task in todo]
    size_px = videos[0].shape[1]
    inputs = [task.inputs(size_px) for task in todo]
    sources = [i.source for i in inputs if i.source is not None]
    subjects = [i.references for i in inputs if i.references is not None]
    clips = Clips(
        videos=videos,
        prompts=[task.caption for task in todo],
        sources=sources or None,
        source_prompts=[i.source_caption for i in inputs] if sources else None,
        references=[truth(task, size_px) for task in todo],
        subjects=subjects or None,
        codec=codec,
    )
    return {metric: result.to_dict() for metric, result in measure(names, clips, settings).items()}


def better(metric: str) -> str:
    """Whether higher or lower is better, or neither."""
    return catalogue()[metric].better
