"""Text to video: a caption, and whether the clip shows what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vgen.metrics import coherence as _coherence
from vgen.metrics import relations as _relations
from vgen.metrics import temporal_consistency as _consistency
from vgen.metrics import text_accuracy as _accuracy
from vgen.metrics.coherence import coherence
from vgen.metrics.kinds.asked import Asked, refuse_share, values
from vgen.metrics.kinds.pairs import Factor, MinimalPair, draw_pair, factors_in, pair_accuracy
from vgen.metrics.kinds.scenes import Stream, related_scene, scene_of, timed
from vgen.metrics.metric import Numbers
from vgen.metrics.relations import relation_accuracy
from vgen.metrics.task import Task, TaskKind
from vgen.metrics.temporal_consistency import temporal_consistency
from vgen.metrics.text_accuracy import image_accuracy, text_accuracy
from vgen.spec import field, spec
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


@spec
class AskedText(Asked):
    """``two_things`` is the share of scenes with two things, ``open_share`` of the captions leave a factor
    open, ``related`` is the share of scenes (not of three things) that stand above or left of each other.
    ``minimal_pairs`` makes two tasks of each, one word and nothing else apart, whose ``pair_factors`` take
    turns."""

    open_share: float = 0.0
    minimal_pairs: bool = False
    pair_factors: list[Factor] = field(default_factory=lambda: list(Factor))
    related: float = 0.0
    two_things: float = 0.45

    def __post_init__(self) -> None:
        refuse_share("suite.text.open_share", self.open_share, 0)
        refuse_share("suite.text.two_things", self.two_things, 0.45)
        refuse_share("suite.text.related", self.related, 0)
        if not self.pair_factors:
            raise ValueError(
                "minimal pairs differ in one factor at least, got suite.text.pair_factors=[]; "
                f"give some of {', '.join(f.value for f in Factor)}"
            )

    def check(self, suite: Suite) -> None:
        if not self.minimal_pairs:
            return
        if suite.num_frames == 1 and {Factor.MOTION, Factor.SPEED} & set(self.pair_factors):
            raise ValueError(
                "a pair of stills must differ in what a still can show, got pair_factors with motion or "
                "speed; set suite.text.pair_factors=[colour,shape,size,ground]"
            )
        if suite.triple and not factors_in(Bucket.TRIPLE, self.pair_factors):
            raise ValueError(
                "scenes of bucket triple stay in it with another size, speed or ground alone, got "
                f"suite.text.pair_factors=[{','.join(values(self.pair_factors))}]; add one of these or set "
                "suite.triple=0"
            )

    def rule(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            key: getattr(self, key) for key in ("open_share", "minimal_pairs", "two_things")
        }
        if self.minimal_pairs:
            out["pair_factors"] = values(self.pair_factors)
        if self.related:
            out["related"] = self.related
        return out

    def draw(self, suite: Suite, bucket: Bucket, i: int, stream: Stream) -> list[Task]:
        rng, id = stream(i), f"{bucket.value}-{i:04d}"
        mix = Mix(two_things=self.two_things)
        if self.minimal_pairs:
            return self._pair(suite, bucket, i, rng)
        scene = timed(scene_of(rng, bucket, suite, mix), suite, i)
        unspecified = (_OPENABLE[rng.integers(len(_OPENABLE))],) if rng.random() < self.open_share else ()
        if self.related and bucket is not Bucket.EXTRAPOLATION and rng.random() < self.related:
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

    def _pair(self, suite: Suite, bucket: Bucket, i: int, rng: np.random.Generator) -> list[Task]:
        """Factors take turns, those that the bucket has room for."""
        factors = factors_in(bucket, self.pair_factors)
        factor = factors[i % len(factors)]
        mix = Mix(two_things=self.two_things)
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
