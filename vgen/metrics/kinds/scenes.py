"""Scenes of a bucket, which all kinds of task start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vgen.toybox.sampling import Beyond, Family, Mix, sample
from vgen.toybox.scenes import Motion, Relation, Scene
from vgen.toybox.splits import MOTIONS, Bucket, bucket_of, bucket_weights, class_weights

if TYPE_CHECKING:
    from vgen.metrics.suite import Suite

Stream = Callable[..., np.random.Generator]
"""A salted generator that is a pure function of the suite, the bucket and the numbers it is given."""


SHOWN = ("count", "size", "speed")
"""What lies beyond training where the clip itself, or a control of it, is given. Words can say a count of
three; for what is larger than large and faster than fast they have no word, so captions alone ask for the
count."""
STRETCH = {"size": Beyond(size=1.25), "speed": Beyond(speed=1.3)}
"""Over the largest and the fastest that training shows (radius .158, speed .030 canvas widths)."""


def scene_of(
    rng: np.random.Generator, bucket: Bucket, suite: Suite, mix: Mix | None = None, beyond: str = "count"
) -> Scene:
    """A scene of the bucket, as long as the suite asks; ``beyond`` is one of ``SHOWN``, and of bucket
    extrapolation alone."""
    mix = mix or Mix()
    if bucket is Bucket.EXTRAPOLATION and beyond == "count":
        scene = sample(rng, Family.MANY, mix)
        return replace(scene, things=scene.things[:3])
    if bucket is Bucket.EXTRAPOLATION:
        weights = class_weights(1.0) if beyond == "size" else moving(class_weights(1.0))
        return sample(rng, Family.CORE, mix, weights, STRETCH[beyond])
    held_out = bucket in (Bucket.PAIR, Bucket.TRIPLE)
    return sample(
        rng,
        Family.CORE,
        mix,
        bucket_weights(bucket) if held_out else class_weights(1.0),
        Beyond(ticks=suite.ticks),
    )


def moving(weights: np.ndarray) -> np.ndarray:
    """The same classes without those that rest."""
    weights = weights.copy()
    weights[:, :, MOTIONS.index(Motion.STATIC)] = 0
    return weights / weights.sum()


def related_scene(rng: np.random.Generator, bucket: Bucket, suite: Suite) -> Scene:
    """Two things that move as one, above or left of each other (what is half hidden cannot be read), both in
    the bucket: the family gives the second thing the motion of the first, which may lie outside it."""
    wanted = bucket if bucket in (Bucket.PAIR, Bucket.TRIPLE) else Bucket.IID
    weights = class_weights(1.0) if wanted is Bucket.IID else bucket_weights(wanted)
    while True:
        scene = sample(rng, Family.RELATION, Mix(), weights, Beyond(ticks=suite.ticks))
        if scene.relation is not Relation.IN_FRONT_OF and all(bucket_of(t) is wanted for t in scene.things):
            return scene


def timed(scene: Scene, suite: Suite, i: int) -> Scene:
    return replace(scene, num_frames=suite.num_frames, stride_ticks=suite.stride_ticks, seed=i)
