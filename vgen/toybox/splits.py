"""Which combinations training never sees, and how often it sees the others.

Held out: a quarter of colour x shape, an eighth of shape x motion, an eighth of colour x motion, and triples.
The allowed combinations are weighted (iterative proportional fitting) so that every single colour, shape and
motion keeps its intended marginal.
"""

from __future__ import annotations

from enum import Enum
from functools import cache

import numpy as np

from vgen.toybox.scenes import CORE_MOTIONS, Colour, Motion, Shape, Thing

COLOURS, SHAPES, MOTIONS = list(Colour), list(Shape), list(Motion)


class Bucket(Enum):
    """Where a scene stands relative to the training distribution."""

    IID = "iid"
    PAIR = "pair"
    TRIPLE = "triple"
    EXTRAPOLATION = "extrapolation"
    PARAPHRASE = "paraphrase"


def _indices(thing: Thing) -> tuple[int, int, int]:
    return COLOURS.index(thing.colour), SHAPES.index(thing.shape), MOTIONS.index(thing.motion)


@cache
def pair_held_out() -> np.ndarray:
    """Boolean colour x shape x motion: some *pair* of the three values is held out."""
    c, s, m = np.ogrid[: len(COLOURS), : len(SHAPES), : len(MOTIONS)]
    return ((c + 3 * s) % 4 == 0) | ((s + m) % 8 == 5) | ((c + 3 * m) % 8 == 6)


@cache
def triple_held_out() -> np.ndarray:
    """Boolean colour x shape x motion: the pairs are all seen, this combination of three never is."""
    c, s, m = np.ogrid[: len(COLOURS), : len(SHAPES), : len(MOTIONS)]
    return ((3 * c + 2 * s + m) % 7 == 0) & ~pair_held_out()


def bucket_of(thing: Thing) -> Bucket:
    at = _indices(thing)
    if pair_held_out()[at]:
        return Bucket.PAIR
    return Bucket.TRIPLE if triple_held_out()[at] else Bucket.IID


@cache
def class_weights(core_share: float) -> np.ndarray:
    """Probability of each colour x shape x motion in training; motions of the core suite have ``core_share``
    of the mass."""
    core = np.array([m in CORE_MOTIONS for m in MOTIONS])
    motion = np.where(core, core_share / core.sum(), (1 - core_share) / (~core).sum())
    targets = [np.full(len(COLOURS), 1 / len(COLOURS)), np.full(len(SHAPES), 1 / len(SHAPES)), motion]
    weights = (~(pair_held_out() | triple_held_out())).astype(float)
    for _ in range(300):
        for axis, target in enumerate(targets):
            others = tuple(i for i in range(3) if i != axis)
            now = weights.sum(others)
            shape = [1, 1, 1]
            shape[axis] = -1
            weights = weights * np.divide(target, now, out=np.zeros_like(target), where=now > 0).reshape(
                shape
            )
    return weights / weights.sum()


def draw_class(rng: np.random.Generator, weights: np.ndarray) -> tuple[Colour, Shape, Motion]:
    c, s, m = np.unravel_index(rng.choice(weights.size, p=weights.ravel()), weights.shape)
    return COLOURS[c], SHAPES[s], MOTIONS[m]


@cache
def bucket_weights(bucket: Bucket) -> np.ndarray:
    """Uniform over the core combinations of a held-out bucket."""
    core = np.array([m in CORE_MOTIONS for m in MOTIONS])[None, None, :]
    allowed = {Bucket.PAIR: pair_held_out(), Bucket.TRIPLE: triple_held_out()}.get(
        bucket, ~(pair_held_out() | triple_held_out())
    )
    weights = (allowed & core).astype(float)
    return weights / weights.sum()
