"""Suites: which scenes in which words, drawn from a salted seed, so that no training corpus can hold them by knowing it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from vgen.metrics._salt import SALT
from vgen.spec import spec
from vgen.toybox.captions import caption
from vgen.toybox.sampling import Family, Mix, rng_of, sample
from vgen.toybox.scenes import TICKS, Scene
from vgen.toybox.splits import Bucket, bucket_weights, class_weights

SUITE_VERSION = 1
_BUCKETS = list(Bucket)
_OPENABLE = ("size", "speed", "ground")


@spec
class Suite:
    """Clips per bucket: ``iid`` as in training, ``pair`` and ``triple`` of combinations that training never sees, ``extrapolation`` three
    things (the core world has one or two), ``paraphrase`` in sentences that training never reads. ``open_share`` of the captions leave a
    factor open."""

    iid: int = 64
    pair: int = 64
    triple: int = 64
    extrapolation: int = 64
    paraphrase: int = 64
    num_frames: int = TICKS
    stride_ticks: int = 1
    seed: int = 0
    open_share: float = 0.0

    def __post_init__(self) -> None:
        counts = self.counts()
        if min(counts.values()) < 0 or sum(counts.values()) == 0:
            raise ValueError(
                f"a suite needs a non-negative number of clips per bucket and one clip at least, got {_named(counts)}; set suite.iid=64"
            )
        ticks = (self.num_frames - 1) * self.stride_ticks
        if self.num_frames < 1 or self.stride_ticks < 1 or ticks > TICKS - 1:
            raise ValueError(
                f"a clip must have at least one frame and end within {TICKS - 1} ticks, where things leave the canvas, got "
                f"num_frames={self.num_frames} with stride_ticks={self.stride_ticks}; lower one of them"
            )
        if self.seed < 0 or not 0 <= self.open_share <= 1:
            raise ValueError(
                f"a suite needs seed >= 0 and open_share in 0..1, got {self.seed} and {self.open_share}; the defaults are 0 and 0"
            )

    def counts(self) -> dict[Bucket, int]:
        return {bucket: getattr(self, bucket.value) for bucket in _BUCKETS}

    def rule(self) -> dict[str, Any]:
        """What makes a task what it is; the number of tasks does not, so a suite may grow."""
        return {"version": SUITE_VERSION, **{k: v for k, v in asdict(self).items() if k not in {b.value for b in _BUCKETS}}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One clip to make. ``seed`` is that of its noise."""

    id: str
    caption: str
    unspecified: tuple[str, ...]
    scene: Scene
    seed: int
    bucket: Bucket

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id, "caption": self.caption, "unspecified": list(self.unspecified), "scene": self.scene.to_dict(), "seed": self.seed,
            "bucket": self.bucket.value,
        }  # fmt: skip


def tasks(suite: Suite) -> list[Task]:
    """Task ``i`` of a bucket depends on the suite's rule and ``i`` alone."""
    return [_task(suite, bucket, i) for bucket, count in suite.counts().items() for i in range(count)]


def _task(suite: Suite, bucket: Bucket, i: int) -> Task:
    rng = rng_of(SALT, SUITE_VERSION, suite.seed, _BUCKETS.index(bucket), i)
    scene = replace(_scene(rng, bucket), num_frames=suite.num_frames, stride_ticks=suite.stride_ticks, seed=i)
    unspecified = (_OPENABLE[rng.integers(len(_OPENABLE))],) if rng.random() < suite.open_share else ()
    words = caption(scene, rng, paraphrase=bucket is Bucket.PARAPHRASE, unspecified=unspecified)
    return Task(
        id=f"{bucket.value}-{i:04d}",
        caption=words.text,
        unspecified=words.unspecified,
        scene=scene,
        seed=int(rng.integers(2**31)),
        bucket=bucket,
    )


def _scene(rng: np.random.Generator, bucket: Bucket) -> Scene:
    if bucket is Bucket.EXTRAPOLATION:
        scene = sample(rng, Family.MANY, Mix())
        return replace(scene, things=scene.things[:3])
    held_out = bucket in (Bucket.PAIR, Bucket.TRIPLE)
    return sample(rng, Family.CORE, Mix(), bucket_weights(bucket) if held_out else class_weights(1.0))


def _named(counts: dict[Bucket, int]) -> str:
    return ", ".join(f"{bucket.value}={count}" for bucket, count in counts.items())


def batches(todo: list[Task], size: int) -> Iterator[list[Task]]:
    for start in range(0, len(todo), size):
        yield todo[start : start + size]
