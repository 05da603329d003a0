"""Text to video: a caption, and whether the clip shows what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vgen.metrics import coherence as _coherence
from vgen.metrics import relations as _relations
from vgen.metrics import temporal_consistency as _consistency
from vgen.metrics import text_accuracy as _accuracy
from vgen.metrics.coherence import coherence
from vgen.metrics.kinds.pairs import MinimalPair, draw_pair, factors_in, pair_accuracy
from vgen.metrics.kinds.scenes import Stream, related_scene, scene_of, timed
from vgen.metrics.metric import Numbers
from vgen.metrics.relations import relation_accuracy
from vgen.metrics.task import Task, TaskKind
from vgen.metrics.temporal_consistency import temporal_consistency
from vgen.metrics.text_accuracy import image_accuracy, text_accuracy
from vgen.toybox.captions import caption
from vgen.toybox.oracle import Facts, read
from vgen.toybox.sampling import Mix
from vgen.toybox.splits import Bucket

if TYPE_CHECKING:
    from vgen.metrics.suite import Suite

_OPENABLE = ("size", "speed", "ground")


def score_text(video: np.ndarray, task: Task, facts: Facts | None = None) -> Numbers:
    facts = facts or read(video, task.scene.stride_ticks)
    related = relation_accuracy(facts, task.scene)
    if len(video) == 1:
        return {**image_accuracy(facts, task.scene, task.unspecified), **related}
    return {
        **text_accuracy(facts, task.scene, task.unspecified),
        **related,
        **temporal_consistency(facts, task.scene, video, task.unspecified),
        **coherence(facts, video, task.scene.stride_ticks),
    }


KIND = TaskKind(
    name="text",
    metrics=(_accuracy.METRIC, _relations.METRIC, _consistency.METRIC, _coherence.METRIC),
    headlines=("exact", "motion_moving", "tc"),
    still_headlines=("exact_image",),
    score=score_text,
    score_set=pair_accuracy,
    set_headlines={"pair": 1.0},
)


def draw(suite: Suite, bucket: Bucket, i: int, stream: Stream) -> list[Task]:
    rng, id = stream(i), f"{bucket.value}-{i:04d}"
    mix = Mix(two_things=suite.two_things)
    if suite.minimal_pairs:
        return _pair(suite, bucket, i, rng)
    scene = timed(scene_of(rng, bucket, suite, mix), suite, i)
    unspecified = (_OPENABLE[rng.integers(len(_OPENABLE))],) if rng.random() < suite.open_share else ()
    if suite.related and bucket is not Bucket.EXTRAPOLATION and rng.random() < suite.related:
        scene = timed(related_scene(rng, bucket, suite), suite, i)
    words = caption(scene, rng, paraphrase=bucket is Bucket.PARAPHRASE, unspecified=unspecified)
    seed = int(rng.integers(2**31))
    return [
        Task(
            id=id,
            caption=words.text,
            unspecified=words.unspecified,
            scene=scene,
            seed=seed,
            bucket=bucket,
            kind=KIND,
            group=id,
        )
    ]


def _pair(suite: Suite, bucket: Bucket, i: int, rng: np.random.Generator) -> list[Task]:
    """Factors take turns, those that the bucket has room for."""
    factors = factors_in(bucket, suite.pair_factors)
    factor = factors[i % len(factors)]
    mix = Mix(two_things=suite.two_things)
    members = draw_pair(lambda: timed(scene_of(rng, bucket, suite, mix), suite, i), factor, bucket, rng)
    id, seed = f"{bucket.value}-{i:04d}-{factor.value}", int(rng.integers(2**31))
    return [
        Task(
            id=f"{id}-{name}",
            caption=member.caption,
            unspecified=(),
            scene=member.scene,
            seed=seed,
            bucket=bucket,
            kind=KIND,
            group=id,
            about=MinimalPair(factor),
        )
        for name, member in zip("ab", members, strict=True)
    ]
