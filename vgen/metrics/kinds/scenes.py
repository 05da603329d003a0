"""Scenes of a bucket, which all kinds of task start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vgen.toybox.sampling import Family, Mix, sample
from vgen.toybox.scenes import Scene
from vgen.toybox.splits import Bucket, bucket_weights, class_weights

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


def timed(scene: Scene, suite: Suite, i: int) -> Scene:
    return replace(scene, num_frames=suite.num_frames, stride_ticks=suite.stride_ticks, seed=i)
