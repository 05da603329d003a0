"""Suites: which scenes in which words, drawn from a salted seed, so that no training corpus can hold them by
knowing it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from vgen.metrics._salt import SALT
from vgen.metrics.kinds.asked import Asked
from vgen.metrics.kinds.camera import AskedCamera
from vgen.metrics.kinds.control import AskedControl
from vgen.metrics.kinds.diversity import AskedDiversity
from vgen.metrics.kinds.edit import AskedEdits
from vgen.metrics.kinds.identity import AskedIdentity
from vgen.metrics.kinds.text import AskedText
from vgen.metrics.task import Inputs, Task, TaskKind
from vgen.spec import Choice, field, spec
from vgen.toybox.sampling import rng_of
from vgen.toybox.scenes import GENERATOR_VERSION, LONGEST, TICKS, check_length
from vgen.toybox.splits import Bucket

__all__ = ["SUITE_VERSION", "Grid", "Inputs", "Kind", "Suite", "Task", "TaskKind", "batches", "tasks"]
SUITE_VERSION = 1
_BUCKETS = list(Bucket)


class Kind(Choice):
    """What is asked of the method; ``vgen.metrics.kinds`` has one file for each."""

    TEXT = "text"
    EDIT = "edit"
    CONTROL = "control"
    IDENTITY = "identity"
    DIVERSITY = "diversity"
    CAMERA = "camera"


@spec
class Grid:
    """Settings of the sampler that the suite is drawn with, every one with every other; an empty list leaves
    the run's own."""

    guidance: list[float] = field(default_factory=list)
    num_steps: list[int] = field(default_factory=list)

    def points(self) -> list[dict[str, float]]:
        """One dictionary of sampler settings per evaluation; a single empty one if nothing is asked for."""
        asked = {k: v for k, v in (("guidance", self.guidance), ("num_steps", self.num_steps)) if v}
        return [dict(zip(asked, point, strict=True)) for point in product(*asked.values())]


@spec
class Suite:
    """Clips per bucket, and what is asked of them.

    * ``iid``: as in training.
    * ``pair``, ``triple``: combinations that training never sees.
    * ``extrapolation``: beyond training. These are scenes of three things, where training has one or two. For
      kinds edit and control, whose clip or control shows it, a thing larger or faster than any takes turns.
    * ``paraphrase``: sentences that training never reads.

    Frames over more than 16 ticks make every clip longer than those of training, of things slow enough to
    stay in the picture; bucket extrapolation is then empty. ``num_seeds`` draws each clip with as many
    noises. Each ``kind`` has a slot with its own settings, and the slots of other kinds are not read."""

    iid: int = 64
    pair: int = 64
    triple: int = 64
    extrapolation: int = 64
    paraphrase: int = 64
    num_frames: int = TICKS
    stride_ticks: int = 1
    seed: int = 0
    num_seeds: int = 1
    kind: Kind = Kind.TEXT
    text: AskedText = field(default_factory=AskedText)
    edit: AskedEdits = field(default_factory=AskedEdits)
    control: AskedControl = field(default_factory=AskedControl)
    identity: AskedIdentity = field(default_factory=AskedIdentity)
    diversity: AskedDiversity = field(default_factory=AskedDiversity)
    camera: AskedCamera = field(default_factory=AskedCamera)
    grid: Grid = field(default_factory=Grid)

    def __post_init__(self) -> None:
        counts = self.counts()
        if min(counts.values()) < 0 or sum(counts.values()) == 0:
            raise ValueError(
                "a suite needs a non-negative number of clips per bucket and one clip at least, got "
                f"{_named(counts)}; set suite.iid=64"
            )
        check_length(self.num_frames, self.stride_ticks, LONGEST)
        if self.seed < 0 or self.num_seeds < 1:
            raise ValueError(
                f"a suite needs seed >= 0 and num_seeds >= 1, got seed={self.seed} and "
                f"num_seeds={self.num_seeds}; the defaults are 0 and 1"
            )
        if self.ticks > TICKS and self.extrapolation:
            raise ValueError(
                f"a suite of {self.num_frames} frames at stride_ticks={self.stride_ticks} lies beyond "
                "training, whose clips end after "
                f"{TICKS} ticks, in every clip; set suite.extrapolation=0"
            )
        self.asked.check(self)

    @property
    def asked(self) -> Asked:
        """The slot of the kind that is drawn."""
        slots: dict[Kind, Asked] = {
            Kind.TEXT: self.text,
            Kind.EDIT: self.edit,
            Kind.CONTROL: self.control,
            Kind.IDENTITY: self.identity,
            Kind.DIVERSITY: self.diversity,
            Kind.CAMERA: self.camera,
        }
        return slots[self.kind]

    def counts(self) -> dict[Bucket, int]:
        return {bucket: getattr(self, bucket.value) for bucket in _BUCKETS}

    @property
    def ticks(self) -> int:
        """From the first frame of a clip to its last, both counted."""
        return (self.num_frames - 1) * self.stride_ticks + 1

    def rule(self) -> dict[str, Any]:
        """What makes a task what it is, as plain data; the number of tasks does not, so a suite may grow."""
        shared = {k: getattr(self, k) for k in ("num_frames", "stride_ticks", "seed", "num_seeds")}
        return {
            "version": SUITE_VERSION,
            "generator": GENERATOR_VERSION,
            "kind": self.kind.value,
            **shared,
            **self.asked.rule(),
        }


def tasks(suite: Suite) -> list[Task]:
    """Task ``i`` of a bucket depends on the suite's rule and ``i`` alone."""
    return [
        task
        for bucket, count in suite.counts().items()
        for i in range(count)
        for task in _tasks(suite, bucket, i)
    ]


def _tasks(suite: Suite, bucket: Bucket, i: int) -> list[Task]:
    """One scene, with as many noises as the suite asks for."""
    base = (SALT, SUITE_VERSION, suite.seed, _BUCKETS.index(bucket))
    own = () if suite.kind is Kind.TEXT else (list(Kind).index(suite.kind),)
    drawn = suite.asked.draw(suite, bucket, i, lambda *key: rng_of(*base, *key, *own))
    if suite.num_seeds == 1:
        return drawn
    return [_with_noise(task, s) for task in drawn for s in range(suite.num_seeds)]


def _with_noise(task: Task, number: int) -> Task:
    return replace(task, id=f"{task.id}-seed{number}", seed=int(rng_of(task.seed, number).integers(2**31)))


def _named(counts: dict[Bucket, int]) -> str:
    return ", ".join(f"{bucket.value}={count}" for bucket, count in counts.items())


def batches(todo: list[Task], size: int) -> Iterator[list[Task]]:
    for start in range(0, len(todo), size):
        yield todo[start : start + size]
