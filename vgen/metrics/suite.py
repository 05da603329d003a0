"""Suites: which scenes in which words, drawn from a salted seed, so that no training corpus can hold them by
knowing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from vgen.metrics._salt import SALT
from vgen.metrics.kinds import control, diversity, edit, identity, text
from vgen.metrics.kinds.control import Control
from vgen.metrics.kinds.pairs import Factor, factors_in
from vgen.metrics.task import Inputs, Task, TaskKind
from vgen.spec import Choice, field, spec
from vgen.toybox.edits import Edit
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


_DRAW: dict[Kind, Callable[..., list[Task]]] = {
    Kind.TEXT: text.draw,
    Kind.EDIT: edit.draw,
    Kind.CONTROL: control.draw,
    Kind.IDENTITY: identity.draw,
    Kind.DIVERSITY: diversity.draw,
}
_RULE = {
    Kind.TEXT: ("open_share", "minimal_pairs", "two_things"),
    Kind.EDIT: ("edits",),
    Kind.CONTROL: ("control",),
    Kind.IDENTITY: ("prompts_per_subject", "num_references"),
    Kind.DIVERSITY: ("seeds_per_prompt",),
}
"""What the tasks of a kind depend on, beside frames and seed."""
_RULE_IF: dict[Kind, tuple[tuple[str, str], ...]] = dict.fromkeys(Kind, ()) | {
    Kind.TEXT: (("pair_factors", "minimal_pairs"), ("related", "related")),
    Kind.DIVERSITY: (("open_motion", "open_motion"),),
    Kind.EDIT: (("open_share", "open_share"),),
}
"""What they depend on too where something else is asked for."""
_LACKS = {
    Kind.IDENTITY: (Bucket.PAIR, Bucket.TRIPLE, Bucket.EXTRAPOLATION),
    Kind.DIVERSITY: (Bucket.EXTRAPOLATION,),
}
_LACKS_POSE = (Bucket.PAIR, Bucket.TRIPLE, Bucket.EXTRAPOLATION)


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
    """Clips per bucket: ``iid`` as in training, ``pair`` and ``triple`` of combinations that training never
    sees, ``extrapolation`` beyond it: three things, where it has one or two, and for kinds edit and control,
    whose clip or control shows it, by turns a thing larger or faster than any; ``paraphrase`` in sentences
    that training never reads. Frames over more than 16 ticks make every clip longer than those of training,
    of things slow enough to stay in the picture; bucket extrapolation is then empty. ``num_seeds`` draws each
    with as many noises. Kind text: ``two_things`` is the share of scenes with two things, ``open_share`` of
    the captions leave a factor open, ``related`` the share of scenes (not of three things) that stand above
    or left of each other, ``minimal_pairs`` makes two tasks of each, one word and nothing else apart, whose
    ``pair_factors`` take turns. Kind edit: ``edits`` take turns, ``open_share`` of the prompts leave size,
    speed and a ground that stays unsaid. Kind control: ``control``. Kind identity: subjects by their prompts
    and stills. Kind diversity: ``seeds_per_prompt`` clips of each caption, ``open_motion`` leaves the motion
    to the model too."""

    iid: int = 64
    pair: int = 64
    triple: int = 64
    extrapolation: int = 64
    paraphrase: int = 64
    num_frames: int = TICKS
    stride_ticks: int = 1
    seed: int = 0
    open_share: float = 0.0
    kind: Kind = Kind.TEXT
    num_seeds: int = 1
    minimal_pairs: bool = False
    pair_factors: list[Factor] = field(default_factory=lambda: list(Factor))
    related: float = 0.0
    two_things: float = 0.45
    edits: list[Edit] = field(default_factory=lambda: [Edit.RECOLOUR, Edit.RESHAPE, Edit.GROUND, Edit.BOTH])
    control: Control = Control.EDGES
    prompts_per_subject: int = 4
    num_references: int = 5
    seeds_per_prompt: int = 64
    open_motion: bool = False
    grid: Grid = field(default_factory=Grid)

    def __post_init__(self) -> None:
        counts = self.counts()
        if min(counts.values()) < 0 or sum(counts.values()) == 0:
            raise ValueError(
                "a suite needs a non-negative number of clips per bucket and one clip at least, got "
                f"{_named(counts)}; set suite.iid=64"
            )
        check_length(self.num_frames, self.stride_ticks, LONGEST)
        if self.seed < 0 or not all(
            0 <= share <= 1 for share in (self.open_share, self.two_things, self.related)
        ):
            raise ValueError(
                "a suite needs seed >= 0, open_share, two_things and related in 0..1, "
                f"got {self.seed}, {self.open_share}, {self.two_things} and {self.related}; the defaults "
                "are 0, 0, 0.45 and 0"
            )
        if self.ticks > TICKS and self.extrapolation:
            raise ValueError(
                f"a suite of {self.num_frames} frames at stride_ticks={self.stride_ticks} lies beyond "
                "training, whose clips end after "
                f"{TICKS} ticks, in every clip; set suite.extrapolation=0"
            )
        self._check_kind()

    def _check_kind(self) -> None:
        numbers = {
            k: getattr(self, k)
            for k in ("num_seeds", "prompts_per_subject", "num_references", "seeds_per_prompt")
        }
        if min(numbers.values()) < 1 or not self.edits or not self.pair_factors:
            told = ", ".join(f"{k}={v}" for k, v in numbers.items())
            raise ValueError(
                f"a suite needs one edit, one pair factor and one of each number at least, got {told}, "
                f"edits={self.edits} and "
                f"pair_factors={self.pair_factors}; raise what is 0"
            )
        if (
            self.minimal_pairs
            and self.num_frames == 1
            and any(f in (Factor.MOTION, Factor.SPEED) for f in self.pair_factors)
        ):
            raise ValueError(
                "a pair of stills must differ in what a still can show, got pair_factors with motion or "
                "speed; set "
                "suite.pair_factors=[colour,shape,size,ground]"
            )
        if self.minimal_pairs and self.triple and not factors_in(Bucket.TRIPLE, self.pair_factors):
            raise ValueError(
                "scenes of bucket triple stay in it with another size, speed or ground alone, got "
                "pair_factors="
                f"[{','.join(f.value for f in self.pair_factors)}]; add one of these or set suite.triple=0"
            )
        posed = self.kind is Kind.CONTROL and self.control is Control.POSE
        lacks = _LACKS_POSE if posed else _LACKS.get(self.kind, ())
        asked = [bucket.value for bucket in lacks if self.counts()[bucket]]
        if asked:
            name = "control=pose" if posed else f"kind={self.kind.value}"
            raise ValueError(
                f"a suite of {name} has no bucket {' or '.join(asked)}; set "
                f"{', '.join(f'suite.{b}=0' for b in asked)}"
            )

    def counts(self) -> dict[Bucket, int]:
        return {bucket: getattr(self, bucket.value) for bucket in _BUCKETS}

    @property
    def ticks(self) -> int:
        """From the first frame of a clip to its last, both counted."""
        return (self.num_frames - 1) * self.stride_ticks + 1

    def rule(self) -> dict[str, Any]:
        """What makes a task what it is, as plain data; the number of tasks does not, so a suite may grow."""
        shared = {k: getattr(self, k) for k in ("num_frames", "stride_ticks", "seed", "num_seeds")}
        own = {k: _plain(getattr(self, k)) for k in _RULE[self.kind]}
        asked = {k: _plain(getattr(self, k)) for k, when in _RULE_IF[self.kind] if getattr(self, when)}
        return {
            "version": SUITE_VERSION,
            "generator": GENERATOR_VERSION,
            "kind": self.kind.value,
            **shared,
            **own,
            **asked,
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
    drawn = _DRAW[suite.kind](suite, bucket, i, lambda *key: rng_of(*base, *key, *own))
    if suite.num_seeds == 1:
        return drawn
    return [_with_noise(task, s) for task in drawn for s in range(suite.num_seeds)]


def _with_noise(task: Task, number: int) -> Task:
    return replace(task, id=f"{task.id}-seed{number}", seed=int(rng_of(task.seed, number).integers(2**31)))


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value.value if isinstance(value, Choice) else value


def _named(counts: dict[Bucket, int]) -> str:
    return ", ".join(f"{bucket.value}={count}" for bucket, count in counts.items())


def batches(todo: list[Task], size: int) -> Iterator[list[Task]]:
    for start in range(0, len(todo), size):
        yield todo[start : start + size]
