"""Text to video: a caption, and whether the clip shows what it says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vgen.metrics import coherence as _coherence
from vgen.metrics import temporal_consistency as _consistency
from vgen.metrics import text_accuracy as _accuracy
from vgen.metrics.coherence import coherence
from vgen.metrics.kinds.scenes import Stream, scene_of, timed
from vgen.metrics.metric import Numbers
from vgen.metrics.statistics import Interval, interval
from vgen.metrics.task import Task, TaskKind
from vgen.metrics.temporal_consistency import temporal_consistency
from vgen.metrics.text_accuracy import image_accuracy, text_accuracy
from vgen.toybox.captions import caption
from vgen.toybox.edits import Edit, edit_pair
from vgen.toybox.oracle import Facts, read
from vgen.toybox.sampling import Mix
from vgen.toybox.scenes import Scene
from vgen.toybox.splits import Bucket

if TYPE_CHECKING:
    from vgen.metrics.suite import Suite

_OPENABLE = ("size", "speed", "ground")


def score_text(video: np.ndarray, task: Task, facts: Facts | None = None) -> Numbers:
    facts = facts or read(video, task.scene.stride_ticks)
    if len(video) == 1:
        return image_accuracy(facts, task.scene, task.unspecified)
    return {
        **text_accuracy(facts, task.scene, task.unspecified),
        **temporal_consistency(facts, task.scene, video),
        **coherence(facts, video),
    }


def pair_accuracy(rows: Sequence[tuple[Task, Numbers]]) -> dict[str, Interval]:
    """PAIR: both members of a minimal pair (captions that differ in one word, one noise) are exact: who ignores the word has none."""
    pairs: dict[str, list[float]] = {}
    for task, numbers in rows:
        if task.about == "minimal pair":
            pairs.setdefault(task.group, []).append(numbers.get("exact", numbers.get("exact_image")) or 0.0)
    return {"pair": interval([min(p) for p in pairs.values() if len(p) == 2])} if pairs else {}


KIND = TaskKind(
    name="text",
    metrics=(_accuracy.METRIC, _consistency.METRIC, _coherence.METRIC),
    headlines=("exact", "motion_moving", "coherence"),
    still_headlines=("exact_image",),
    score=score_text,
    score_set=pair_accuracy,
)


def draw(suite: Suite, bucket: Bucket, i: int, stream: Stream) -> list[Task]:
    rng, id = stream(i), f"{bucket.value}-{i:04d}"
    scene = timed(scene_of(rng, bucket, Mix(two_things=suite.two_things)), suite, i)
    unspecified = (_OPENABLE[rng.integers(len(_OPENABLE))],) if rng.random() < suite.open_share else ()
    if suite.minimal_pairs:
        return _pair(scene, bucket, id, rng)
    words = caption(scene, rng, paraphrase=bucket is Bucket.PARAPHRASE, unspecified=unspecified)
    seed = int(rng.integers(2**31))
    return [Task(id=id, caption=words.text, unspecified=words.unspecified, scene=scene, seed=seed, bucket=bucket, kind=KIND, group=id)]


def _pair(scene: Scene, bucket: Bucket, id: str, rng: np.random.Generator) -> list[Task]:
    """A scene and the same one with another ground, which no bucket asks about."""
    pair = edit_pair(scene, Edit.GROUND, int(rng.integers(2**31)), paraphrase=bucket is Bucket.PARAPHRASE)
    members = (("a", pair.scene, pair.source), ("b", pair.edited, pair.target))
    seed = int(rng.integers(2**31))
    return [
        Task(id=f"{id}-{m}", caption=c, unspecified=(), scene=s, seed=seed, bucket=bucket, kind=KIND, group=id, about="minimal pair")
        for m, s, c in members
    ]
