"""Scenes of a bucket, which all kinds of task start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vgen.toybox.sampling import Family, Mix, sample
from vgen.toybox.scenes import Relation, Scene
from vgen.toybox.splits import Bucket, bucket_of, bucket_weights, class_weights

if TYPE_CHECKING:
    from vgen.metrics.suite import Suite

Stream = Callable[..., np.random.Generator]
"""A salted generator that is a pure function of the suite, the bucket and the numbers it is given."""


def scene_of(rng: np.random.Generator, bucket: Bucket, mix: Mix | None = None) -> Scene:
    if bucket is Bucket.EXTRAPOLATION:
        scene = sample(rng, Family.MANY, mix or Mix())
        return replace(scene, things=scene.things[:3])
    held_out = bucket in (Bucket.PAIR, Bucket.TRIPLE)
    return sample(rng, Family.CORE, mix or Mix(), bucket_weights(bucket) if held_out else class_weights(1.0))


def related_scene(rng: np.random.Generator, bucket: Bucket) -> Scene:
    """Two things that move as one, above or left of each other (what is half hidden cannot be read), both in the bucket: the family gives
    the second thing the motion of the first, which may lie outside it."""
    wanted = bucket if bucket in (Bucket.PAIR, Bucket.TRIPLE) else Bucket.IID
    weights = class_weights(1.0) if wanted is Bucket.IID else bucket_weights(wanted)
    while True:
        scene = sample(rng, Family.RELATION, Mix(), weights)
        if scene.relation is not Relation.IN_FRONT_OF and all(bucket_of(t) is wanted for t in scene.things):
            return scene


def timed(scene: Scene, suite: Suite, i: int) -> Scene:
    return replace(scene, num_frames=suite.num_frames, stride_ticks=suite.stride_ticks, seed=i)
