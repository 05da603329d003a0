"""Drawing scenes: the class (colour, shape, motion) of every thing first; what does not fit the canvas is
rejected by its nuisance, then by its size and speed, and never by its class, so that no class is thinned."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from vgen.spec import spec
from vgen.toybox.glyphs import REACH
from vgen.toybox.motion import GROWTH, path
from vgen.toybox.scenes import (
    RADIUS,
    SOLIDS,
    SPEED,
    TICKS,
    Action,
    Camera,
    Colour,
    Ground,
    Kind,
    Motion,
    Relation,
    Scene,
    Size,
    Speed,
    Thing,
)
from vgen.toybox.splits import COLOURS, MOTIONS, SHAPES, class_weights, draw_class


class Family(Enum):
    """What a scene is about."""

    CORE = "core"  # one or two shapes, solid ground, straight motion or none
    MANY = "many"  # three or four shapes
    TEXTURE = "texture"
    MOTION = "motion"  # the other eight motions
    RELATION = "relation"
    PUPPET = "puppet"
    IDENTICON = "identicon"


@spec
class Mix:
    """Shares of the families; they need not sum to one. The image model never sees an identicon, which must
    stay a new subject."""

    core: float = 0.76
    many: float = 0.03
    texture: float = 0.04
    motion: float = 0.03
    relation: float = 0.02
    puppet: float = 0.12
    identicon: float = 0.0
    two_things: float = 0.45
    camera: float = 0.0
    cues: bool = True

    def __post_init__(self) -> None:
        shares = {f.value: getattr(self, f.value) for f in Family}
        if not all(0 <= share < math.inf for share in shares.values()) or sum(shares.values()) == 0:
            got = ", ".join(f"{name}={share:g}" for name, share in shares.items())
            raise ValueError(
                "a mix needs finite shares of the families, none negative and one positive at least, got "
                f"{got}; set core=1"
            )
        if not (0 <= self.two_things <= 1 and 0 <= self.camera <= 1):
            raise ValueError(
                f"a mix needs two_things and camera, shares of the scenes, in 0..1, got {self.two_things:g} "
                f"and {self.camera:g}; "
                "the defaults are 0.45 and 0"
            )

    def family(self, rng: np.random.Generator) -> Family:
        shares = np.array([getattr(self, f.value) for f in Family])
        return list(Family)[rng.choice(len(shares), p=shares / shares.sum())]


@dataclass(frozen=True, slots=True)
class Beyond:
    """Where a scene leaves what training shows: factors on radius and speed of its first thing, which then is
    large or fast, and the ticks for which everything stays on the canvas, where they are more than usual."""

    size: float = 1.0
    speed: float = 1.0
    ticks: int = TICKS


USUAL = Beyond()
MOST_ROUNDS = 300  # of sizes and speeds; of 300 scenes of each family none took more than 19


def rng_of(*key: int) -> np.random.Generator:
    """A generator that is a pure function of ``key``: order and number of workers do not matter."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def corpus(
    num_scenes: int, seed: int, mix: Mix | None = None, num_frames: int = TICKS, stride_ticks: int = 1
) -> Iterator[Scene]:
    """Scene ``i`` depends on ``(seed, i)`` alone."""
    for i in range(num_scenes):
        yield scene_at(i, seed, mix or Mix(), num_frames, stride_ticks)


def scene_at(index: int, seed: int, mix: Mix, num_frames: int = TICKS, stride_ticks: int = 1) -> Scene:
    rng = rng_of(seed, index)
    scene = sample(rng, mix.family(rng), mix)
    return replace(scene, num_frames=num_frames, stride_ticks=stride_ticks, seed=index)


def sample(
    rng: np.random.Generator,
    family: Family,
    mix: Mix,
    weights: np.ndarray | None = None,
    beyond: Beyond = USUAL,
) -> Scene:
    """One scene of a family; ``weights`` over colour x shape x motion default to the training
    distribution."""
    ground = SOLIDS[rng.integers(len(SOLIDS))]
    inks = tuple(SOLIDS[i] for i in rng.permutation(len(SOLIDS))[:2])
    if family is Family.TEXTURE:
        ground = (Ground.GRADIENT, Ground.CHECKER, Ground.STRIPES)[rng.integers(3)]
    camera = Camera()
    if rng.random() < mix.camera:
        camera = Camera(
            pan_x=rng.uniform(-0.01, 0.01), pan_y=rng.uniform(-0.01, 0.01), zoom=rng.uniform(0.985, 1.015)
        )
    num_things = 1 + int(rng.random() < mix.two_things)
    relation = None
    match family:
        case Family.MANY:
            num_things = int(rng.integers(3, 5))
        case Family.RELATION:
            num_things, relation = 2, list(Relation)[rng.integers(3)]
        case Family.PUPPET | Family.IDENTICON:
            num_things = 1
    if weights is None:
        weights = class_weights(0.0 if family is Family.MOTION else 1.0)
    things = _stretched(_classes(rng, family, num_things, weights), beyond)
    for _ in range(MOST_ROUNDS):
        placed = place(rng, things, relation, camera, beyond)
        if placed is not None:
            return Scene(
                things=tuple(placed),
                ground=ground,
                inks=inks,
                relation=relation,
                camera=camera,
                cues=mix.cues,
            )
        things = _stretched(
            _resized(rng, things, relation), beyond
        )  # of core scenes one in a hundred, of three or four things one in five
    raise ValueError(
        f"a scene of family {family.value} has no room for {beyond.ticks} ticks whatever its sizes and "
        "speeds; ask for fewer frames"
    )


def redraw(rng: np.random.Generator, scene: Scene, open_factors: Sequence[str] = ()) -> Scene:
    """The same classes in another place, with other nuisance; ``open_factors`` (size, speed, ground) are
    drawn anew too."""
    while True:
        things = []
        for thing in scene.things:
            size = list(Size)[rng.integers(3)] if "size" in open_factors else thing.size
            speed = list(Speed)[rng.integers(3)] if "speed" in open_factors else thing.speed
            things.append(replace(thing, size=size, speed=speed))
        placed = place(rng, things, scene.relation, scene.camera, Beyond(ticks=max(TICKS, scene.ticks)))
        if placed is not None:
            ground = SOLIDS[rng.integers(len(SOLIDS))] if "ground" in open_factors else scene.ground
            return replace(scene, things=tuple(placed), ground=ground)


def _classes(rng: np.random.Generator, family: Family, num_things: int, weights: np.ndarray) -> list[Thing]:
    things: list[Thing] = []
    while len(things) < num_things:
        colour, shape, motion = draw_class(rng, weights)
        if any(colour is t.colour for t in things):
            continue  # two things of one colour cannot be told apart by a caption
        size, speed = _size_and_speed(rng, num_things)
        if family is Family.RELATION and things:
            motion, speed = things[0].motion, things[0].speed
            if not weights[COLOURS.index(colour), SHAPES.index(shape), MOTIONS.index(motion)]:
                continue  # what a bucket holds out stays out, whoever lends the motion
        kind = {Family.PUPPET: Kind.PUPPET, Family.IDENTICON: Kind.IDENTICON}.get(family, Kind.SHAPE)
        thing = Thing(kind=kind, colour=colour, shape=shape, size=size, motion=motion, speed=speed)
        if kind is not Kind.SHAPE:
            second = [c for c in Colour if c is not colour][rng.integers(7)]
            thing = replace(thing, second=second, action=list(Action)[rng.integers(4)], code=_code(rng))
        if kind is Kind.PUPPET:
            thing = replace(thing, motion=Motion.STATIC, size=Size.MEDIUM)
        things.append(thing)
    return things


def _size_and_speed(rng: np.random.Generator, num_things: int) -> tuple[Size, Speed]:
    return list(Size)[rng.integers(3 if num_things < 3 else 2)], list(Speed)[rng.integers(3)]


def _resized(rng: np.random.Generator, things: list[Thing], relation: Relation | None) -> list[Thing]:
    """The same classes in other sizes and speeds; what stands in a relation moves as one."""
    drawn = [_size_and_speed(rng, len(things)) for _ in things]
    return [
        replace(t, size=size, speed=drawn[0][1] if relation else speed)
        for t, (size, speed) in zip(things, drawn, strict=True)
    ]


def _stretched(things: list[Thing], beyond: Beyond) -> list[Thing]:
    """The first thing as large or as fast as words can say, where it shall be more than that."""
    first = things[0]
    size, speed = (
        Size.LARGE if beyond.size > 1 else first.size,
        Speed.FAST if beyond.speed > 1 else first.speed,
    )
    return [replace(first, size=size, speed=speed), *things[1:]]


def _code(rng: np.random.Generator) -> int:
    """A 4 x 4 code with eight of sixteen bits set: every subject has one and the same colour histogram."""
    return int(sum(1 << int(b) for b in rng.permutation(16)[:8]))


def _nuisance(rng: np.random.Generator, thing: Thing) -> Thing:
    velocity = (
        0.0
        if thing.motion is Motion.STATIC and thing.kind is not Kind.PUPPET
        else SPEED[thing.speed] * rng.uniform(0.93, 1.07)
    )
    radius = RADIUS[thing.size] * rng.uniform(0.96, 1.04) * (1.6 if thing.kind is Kind.IDENTICON else 1.0)
    if thing.kind is Kind.PUPPET:
        radius = rng.uniform(0.15, 0.19)
    heading, phase = rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)
    return replace(thing, velocity=velocity, radius=radius, heading=heading, phase=phase, x=0.0, y=0.0)


def reach_of(thing: Thing) -> float:
    """Largest distance of the body from its centroid over the clip."""
    if thing.kind is Kind.PUPPET:
        return thing.radius * 2.1
    reach = thing.radius * (1.26 if thing.kind is Kind.IDENTICON else REACH[thing.shape])
    return reach * (GROWTH**0.5 if thing.motion in (Motion.GROW, Motion.SHRINK) else 1.0)


def place(
    rng: np.random.Generator,
    things: list[Thing],
    relation: Relation | None,
    camera: Camera | None = None,
    beyond: Beyond = USUAL,
    tries: int = 40,
    candidates: int = 64,
) -> list[Thing] | None:
    """Positions such that the camera sees every body whole all the time and no two touch; None if there is no
    room."""
    ticks, camera = np.arange(max(TICKS, beyond.ticks), dtype=float), camera or Camera()
    pan, zoom = np.stack([camera.pan_x * ticks, camera.pan_y * ticks], -1), camera.zoom ** ticks[:, None]
    for _ in range(tries):
        drawn = [_nuisance(rng, t) for t in things]
        drawn[0] = replace(
            drawn[0], radius=drawn[0].radius * beyond.size, velocity=drawn[0].velocity * beyond.speed
        )
        if relation is not None:
            drawn[1] = replace(drawn[1], velocity=drawn[0].velocity, heading=drawn[0].heading)
        moves = np.stack([path(t, ticks)[:, :2] for t in drawn])  # n f 2, relative to the start
        reach = np.array([reach_of(t) for t in drawn])[:, None] + 0.012
        wide, off = reach[:, None], pan / zoom  # 0 <= seen(x) -+ reach <= 1 at every tick, solved for x
        low, high = (
            (wide + (0.5 - 0.5 / zoom + off) - moves).max(1),
            (1 - wide + (0.5 / zoom - 0.5 + off) - moves).min(1),
        )
        if (low > high).any():
            continue
        start = rng.uniform(low, high, (candidates, len(drawn), 2))
        if relation is not None and len(drawn) == 2:
            start[:, 1] = start[:, 0] + _offset(rng, relation, reach, candidates)
        fits = ((start >= low) & (start <= high)).all((1, 2))
        if relation is not Relation.IN_FRONT_OF:
            tracks = start[:, :, None] + moves
            for i in range(len(drawn)):
                for j in range(i):
                    gap = np.linalg.norm(tracks[:, i] - tracks[:, j], axis=-1).min(-1)
                    fits &= gap > 0.9 * (reach[i] + reach[j])
        if fits.any():
            x, y = start[fits.argmax()].T
            return [replace(t, x=float(x[i]), y=float(y[i])) for i, t in enumerate(drawn)]
    return None


def _offset(rng: np.random.Generator, relation: Relation, reach: np.ndarray, candidates: int) -> np.ndarray:
    """From the first thing to the second: above means the first is above; in front of means the second is
    drawn over the first."""
    away = float(reach.sum()) * rng.uniform(0.95, 1.2, candidates)
    side = rng.uniform(-0.06, 0.06, candidates)
    match relation:
        case Relation.ABOVE:
            return np.stack([side, away], -1)
        case Relation.LEFT_OF:
            return np.stack([away, side], -1)
        case Relation.IN_FRONT_OF:
            angle, near = (
                rng.uniform(0, 2 * np.pi, candidates),
                float(reach.sum()) * rng.uniform(0.4, 0.55, candidates),
            )
            return np.stack([near * np.cos(angle), near * np.sin(angle)], -1)
