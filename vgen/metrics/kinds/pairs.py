"""Minimal pairs: two captions one word apart, one noise. Who does not hear the word has one member at
most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vgen.metrics.metric import Numbers
from vgen.metrics.statistics import Resampled, average
from vgen.metrics.task import Task
from vgen.spec import Choice
from vgen.toybox.captions import caption
from vgen.toybox.sampling import Beyond, place, rng_of
from vgen.toybox.scenes import DIRECTION, SOLIDS, Colour, Motion, Scene, Shape, Size, Speed, Thing
from vgen.toybox.splits import Bucket, bucket_of

MOST_TRIES = 400


class Factor(Choice):
    """What the one word is about."""

    COLOUR = "colour"
    SHAPE = "shape"
    SIZE = "size"
    MOTION = "motion"
    SPEED = "speed"
    GROUND = "ground"


_VALUES: dict[Factor, Sequence[Any]] = {
    Factor.COLOUR: list(Colour),
    Factor.SHAPE: list(Shape),
    Factor.SIZE: list(Size),
    Factor.MOTION: list(DIRECTION),
    Factor.SPEED: list(Speed),
}


WITHIN_TRIPLES = (Factor.SIZE, Factor.SPEED, Factor.GROUND)
"""A combination of three that is held out stays one in no other shape or motion, and but for one case in no
other colour."""


def factors_in(bucket: Bucket, factors: Sequence[Factor]) -> list[Factor]:
    """Those that two scenes of one bucket can differ in."""
    return [f for f in factors if bucket is not Bucket.TRIPLE or f in WITHIN_TRIPLES]


@dataclass(frozen=True, slots=True)
class MinimalPair:
    """What both members of a pair know."""

    factor: Factor


@dataclass(frozen=True, slots=True)
class Member:
    scene: Scene
    caption: str


def draw_pair(
    draw: Callable[[], Scene], factor: Factor, bucket: Bucket, rng: np.random.Generator
) -> tuple[Member, Member]:
    """A scene of the bucket and the same one with another value of one factor, which lies in the bucket too.
    Where the change needs another place (a size, a shape, a way to go), things are placed anew: no caption
    says where they are."""
    for _ in range(MOST_TRIES):
        scene = draw()
        other = _varied(scene, factor, bucket, rng)
        if other is None:
            continue
        key = int(rng.integers(2**31))  # one stream: the same sentence twice
        words = [caption(s, rng_of(key), paraphrase=bucket is Bucket.PARAPHRASE).text for s in (scene, other)]
        if words_apart(*words) == 1:
            return Member(scene, words[0]), Member(other, words[1])
    raise AssertionError(f"no minimal pair in {factor.value} of bucket {bucket.value} in {MOST_TRIES} scenes")


def words_apart(a: str, b: str) -> int:
    """Words that differ between two sentences of one length; of sentences of two lengths, all."""
    first, second = a.split(), b.split()
    return (
        sum(x != y for x, y in zip(first, second, strict=True))
        if len(first) == len(second)
        else max(len(first), len(second))
    )


def pair_accuracy(rows: Sequence[tuple[Task, Numbers]]) -> dict[str, Resampled]:
    """PAIR: share of pairs both of whose members are exact, over all of them and by factor. Another noise
    makes another pair."""
    pairs: dict[tuple[str, int], list[tuple[Factor, float]]] = {}
    for task, numbers in rows:
        if isinstance(task.about, MinimalPair):
            exact = numbers.get("exact", numbers.get("exact_image")) or 0.0
            pairs.setdefault((task.group, task.seed), []).append((task.about.factor, exact))
    both = [
        (members[0][0], min(exact for _, exact in members)) for members in pairs.values() if len(members) == 2
    ]
    named = {"pair": average([v for _, v in both])} | {
        f"pair_{f.value}": average([v for g, v in both if g is f]) for f in Factor
    }
    return {key: number for key, number in named.items() if number is not None}


def _varied(scene: Scene, factor: Factor, bucket: Bucket, rng: np.random.Generator) -> Scene | None:
    """None where nothing in the scene can be changed within the bucket, or there is no room."""
    if factor is Factor.GROUND:
        return replace(scene, ground=_one([g for g in SOLIDS if g is not scene.ground], rng))
    i = int(rng.integers(len(scene.things)))
    options = [t for t in _others(scene.things[i], factor) if _fits(t, i, scene, bucket)]
    if not options:
        return None
    things: list[Thing] = [*scene.things[:i], _one(options, rng), *scene.things[i + 1 :]]
    placed = things if factor is Factor.COLOUR else place(rng, things, None, beyond=Beyond(ticks=scene.ticks))
    return None if placed is None else replace(scene, things=tuple(placed))


def _others(thing: Thing, factor: Factor) -> list[Thing]:
    """The thing with every other value; what stands still has neither a way nor a speed that one word could
    change."""
    if factor in (Factor.MOTION, Factor.SPEED) and thing.motion is Motion.STATIC:
        return []
    return [
        replace(thing, **{factor.value: v}) for v in _VALUES[factor] if v is not getattr(thing, factor.value)
    ]


def _fits(thing: Thing, i: int, scene: Scene, bucket: Bucket) -> bool:
    """In the bucket, and of no other thing's colour."""
    wanted = bucket if bucket in (Bucket.PAIR, Bucket.TRIPLE) else Bucket.IID
    others = [t for j, t in enumerate(scene.things) if j != i]
    crowded = len(scene.things) > 2 and thing.size is Size.LARGE  # as the world draws three things
    return bucket_of(thing) is wanted and not crowded and all(thing.colour is not t.colour for t in others)


def _one(options: Sequence[Any], rng: np.random.Generator) -> Any:
    return options[int(rng.integers(len(options)))]
