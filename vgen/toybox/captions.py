"""Scenes in words: sixteen sentence structures, a quarter of them never used for training, with synonyms for
every factor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vgen.toybox.scenes import (
    Action,
    Colour,
    Ground,
    Kind,
    Motion,
    Relation,
    Scene,
    Shape,
    Size,
    Speed,
    Thing,
)

SIZES = {
    Size.SMALL: ("small", "little", "tiny"),
    Size.MEDIUM: ("medium", "mid-sized"),
    Size.LARGE: ("large", "big", "huge"),
}
ADVERBS = {
    Speed.SLOW: ("slowly", "gently"),
    Speed.MEDIUM: ("steadily", "evenly"),
    Speed.FAST: ("fast", "quickly", "rapidly"),
}
DIRECTIONS = {
    Motion.LEFT: ("left", "to the left", "leftwards"),
    Motion.RIGHT: ("right", "to the right", "rightwards"),
    Motion.UP: ("up", "upwards"),
    Motion.DOWN: ("down", "downwards"),
    Motion.UP_LEFT: ("up and left", "to the upper left"),
    Motion.UP_RIGHT: ("up and right", "to the upper right"),
    Motion.DOWN_LEFT: ("down and left", "to the lower left"),
    Motion.DOWN_RIGHT: ("down and right", "to the lower right"),
}
VERBS = ("moves", "drifts", "travels", "glides", "slides")
_GERUND = {
    "moves": "moving",
    "drifts": "drifting",
    "travels": "travelling",
    "glides": "gliding",
    "slides": "sliding",
}
OTHERS = {
    Motion.BOUNCE: ("bounces", "bouncing"),
    Motion.ORBIT_CW: ("circles clockwise", "circling clockwise"),
    Motion.ORBIT_CCW: ("circles counterclockwise", "circling counterclockwise"),
    Motion.ACCELERATE: ("accelerates", "accelerating"),
    Motion.STOP_AND_GO: ("stops and goes", "stopping and going"),
    Motion.GROW: ("grows", "growing"),
    Motion.SHRINK: ("shrinks", "shrinking"),
    Motion.ROTATE: ("spins", "spinning"),
}
STILL = (("stays still", "staying still"), ("does not move", "not moving"), ("rests", "resting"))
ACTIONS = {
    Action.WALK: ("walks", "walking"),
    Action.WAVE: ("waves", "waving"),
    Action.JUMP: ("jumps", "jumping"),
    Action.DANCE: ("dances", "dancing"),
}
RELATIONS = {
    Relation.ABOVE: ("above", "over"),
    Relation.LEFT_OF: ("left of", "to the left of"),
    Relation.IN_FRONT_OF: ("in front of",),
}

# (clause, sentence): the clause says what one thing does, the sentence joins the clauses and names the
# ground.
_CLAUSES = ("{thing} {finite}", "{thing} {gerund}", "{thing} that {finite}", "{thing} which is {gerund}")
_SENTENCES = (
    "{clauses} on a {ground} background",
    "on a {ground} background , {clauses}",
    "{clauses} , {ground} background",
    "a {ground} scene with {clauses}",
)
TEMPLATES = tuple((c, s) for c in _CLAUSES for s in _SENTENCES)
HELD_OUT_TEMPLATES = (3, 6, 9, 12)
TRAINING_TEMPLATES = tuple(i for i in range(len(TEMPLATES)) if i not in HELD_OUT_TEMPLATES)


@dataclass(frozen=True, slots=True)
class Caption:
    """``text`` and the factors it leaves open (``size``, ``speed``, ``ground``): those may take any value."""

    text: str
    unspecified: tuple[str, ...] = ()


def caption(
    scene: Scene, rng: np.random.Generator, *, paraphrase: bool = False, unspecified: Sequence[str] = ()
) -> Caption:
    """Describe ``scene``; ``paraphrase`` draws from the held-out structures."""
    clause, sentence = TEMPLATES[rng.choice(HELD_OUT_TEMPLATES if paraphrase else TRAINING_TEMPLATES)]
    if scene.relation is not None:
        clauses = _related(scene, scene.relation, clause, rng, unspecified)
    else:
        clauses = (
            " and ".join(_clause(thing, clause, rng, unspecified) for thing in scene.things) or "nothing"
        )
    clauses = with_articles(clauses)
    if "ground" in unspecified:
        return Caption(clauses, tuple(unspecified))
    return Caption(sentence.format(clauses=clauses, ground=ground_words(scene.ground)), tuple(unspecified))


def with_articles(text: str) -> str:
    """``an`` before orange, ``a`` before everything else that the world has."""
    return re.sub(r"\ban (?!orange\b)", "a ", re.sub(r"\ba (?=orange\b)", "an ", text))


def ground_words(ground: Ground) -> str:
    return {Ground.CHECKER: "checkered", Ground.STRIPES: "striped"}.get(ground, ground.value)


def _pick(options: Sequence[Any], rng: np.random.Generator) -> Any:
    return options[int(rng.integers(len(options)))]


def _noun(thing: Thing, rng: np.random.Generator, unspecified: Sequence[str]) -> str:
    size = () if "size" in unspecified else (_pick(SIZES[thing.size], rng),)
    match thing.kind:
        case Kind.PUPPET:
            return f"a puppet in a {thing.colour.value} shirt and {thing.second.value} trousers"
        case Kind.IDENTICON:
            return " ".join(("a", *size, thing.colour.value, "and", thing.second.value, "identicon"))
        case _:
            return " ".join(("a", *size, thing.colour.value, thing.shape.value))


def _verb(thing: Thing, rng: np.random.Generator, unspecified: Sequence[str]) -> tuple[str, str]:
    """Finite form and gerund of what the thing does."""
    if thing.kind is Kind.PUPPET:
        return ACTIONS[thing.action]
    if thing.motion is Motion.STATIC:
        return _pick(STILL, rng)
    timeless = thing.motion in (Motion.GROW, Motion.SHRINK)  # over the clip, whatever its speed
    adverb = "" if "speed" in unspecified or timeless else " " + _pick(ADVERBS[thing.speed], rng)
    if thing.motion in DIRECTIONS:
        verb, way = _pick(VERBS, rng), _pick(DIRECTIONS[thing.motion], rng)
        return f"{verb} {way}{adverb}", f"{_GERUND[verb]} {way}{adverb}"
    finite, gerund = OTHERS[thing.motion]
    return finite + adverb, gerund + adverb


def _clause(thing: Thing, template: str, rng: np.random.Generator, unspecified: Sequence[str]) -> str:
    finite, gerund = _verb(thing, rng, unspecified)
    return template.format(thing=_noun(thing, rng, unspecified), finite=finite, gerund=gerund)


def _related(
    scene: Scene, relation: Relation, template: str, rng: np.random.Generator, unspecified: Sequence[str]
) -> str:
    """Two things that move as one: ``a red circle above a blue square drifts left``. The first thing listed
    is the subject."""
    subject, other = scene.things if relation is not Relation.IN_FRONT_OF else scene.things[::-1]
    finite, gerund = _verb(subject, rng, unspecified)
    nouns = (
        f"{_noun(subject, rng, unspecified)} {_pick(RELATIONS[relation], rng)} "
        f"{_noun(other, rng, unspecified)}"
    )
    return template.format(thing=nouns, finite=finite, gerund=gerund)


def vocabulary() -> list[str]:
    """Every word a caption can hold, sorted: what the shipped tokenizer is built from."""
    parts: list[str] = [
        "nothing",
        "an",
        "identicon",
        "puppet",
        "shirt",
        "trousers",
        "in",
        "checkered",
        "striped",
        "gradient",
    ]
    for table in (SIZES, ADVERBS, DIRECTIONS, OTHERS, ACTIONS, RELATIONS):
        parts += [word for options in table.values() for word in options]
    parts += [
        *VERBS,
        *_GERUND.values(),
        *(w for pair in STILL for w in pair),
        *(c + " " + s for c, s in TEMPLATES),
    ]
    parts += [e.value for enum in (Colour, Shape, Ground) for e in enum]
    words = " ".join(parts).replace("{", " ").replace("}", " ").split()
    return sorted(set(words) - {"thing", "finite", "gerund", "clauses"})
