"""What the oracle must read, and what must not fool it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vgen.toybox.oracle import read, read_image
from vgen.toybox.renderer import render
from vgen.toybox.sampling import Family, Mix, rng_of, sample
from vgen.toybox.scenes import (
    RADIUS,
    SOLIDS,
    SPEED,
    Colour,
    Ground,
    Motion,
    Relation,
    Scene,
    Shape,
    Size,
    Speed,
    Thing,
)


def scene(*things: Thing, **settings) -> Scene:
    return Scene(things=things, **settings)


def thing(
    colour=Colour.RED,
    shape=Shape.CIRCLE,
    size=Size.MEDIUM,
    motion=Motion.STATIC,
    speed=Speed.MEDIUM,
    x=0.5,
    y=0.5,
) -> Thing:
    velocity = 0.0 if motion is Motion.STATIC else SPEED[speed]
    return Thing(
        colour=colour,
        shape=shape,
        size=size,
        motion=motion,
        speed=speed,
        x=x,
        y=y,
        radius=RADIUS[size],
        velocity=velocity,
    )


@pytest.mark.parametrize("ground", SOLIDS)
@pytest.mark.parametrize("colour", list(Colour))
def test_reads_every_shape_in_every_colour_on_every_ground_through_its_marks(
    colour: Colour, ground: Ground
) -> None:
    for shape in Shape:
        drawn = thing(colour, shape, Size.SMALL, Motion.UP_RIGHT, Speed.SLOW, 0.3, 0.7)
        facts = read(render(scene(drawn, ground=ground, num_frames=4, stride_ticks=3)).video, stride_ticks=3)
        [seen] = facts.things
        assert (facts.ground, seen.colour, seen.shape, seen.size, seen.motion, seen.speed) == (
            ground, colour, shape, Size.SMALL, Motion.UP_RIGHT, Speed.SLOW,
        )  # fmt: skip
        assert facts.unexplained.max() < 0.02


@pytest.mark.parametrize("speed", list(Speed))
@pytest.mark.parametrize(("num_frames", "stride"), [(16, 1), (8, 2), (4, 5)])
def test_speed_is_per_tick_whatever_the_frames(num_frames: int, stride: int, speed: Speed) -> None:
    drawn = thing(motion=Motion.RIGHT, speed=speed, x=0.25)
    [seen] = read(
        render(scene(drawn, num_frames=num_frames, stride_ticks=stride)).video, stride_ticks=stride
    ).things
    assert (seen.motion, seen.speed) == (Motion.RIGHT, speed)
    np.testing.assert_allclose(seen.velocity, [SPEED[speed], 0], atol=4e-4)


@pytest.mark.parametrize("size", list(Size))
def test_place_and_radius_are_exact_to_a_fraction_of_a_pixel(size: Size) -> None:
    for shape in Shape:
        [seen] = read_image(
            render(scene(thing(shape=shape, size=size, x=0.37, y=0.61), num_frames=1)).video[0]
        ).things
        np.testing.assert_allclose(seen.centres[0], [0.37, 0.61], atol=0.006)
        assert seen.radii[0] == pytest.approx(RADIUS[size], rel=0.06)


def test_a_still_has_no_motion() -> None:
    facts = read_image(render(scene(thing(motion=Motion.LEFT), thing(Colour.CYAN, x=0.15, y=0.2))).video[0])
    assert len(facts.things) == 2
    assert all(s.motion is None and s.speed is None for s in facts.things)


def test_frozen_is_static_and_reversed_turns_round() -> None:
    video = render(scene(thing(motion=Motion.DOWN_LEFT, x=0.7, y=0.3))).video
    assert read(np.repeat(video[:1], 16, 0)).things[0].motion is Motion.STATIC
    assert read(video[::-1]).things[0].motion is Motion.UP_RIGHT
    assert read(video[np.random.default_rng(0).permutation(16)]).things[0].motion is None


def test_paths_outside_the_core_world_are_no_core_motion() -> None:
    for motion in (Motion.BOUNCE, Motion.ORBIT_CW):
        [seen] = read(render(scene(replace(thing(motion=motion, x=0.4), velocity=0.026))).video).things
        assert seen.motion not in (Motion.LEFT, Motion.RIGHT, Motion.UP, Motion.DOWN)


def test_things_that_touch_are_two() -> None:
    facts = read(
        render(
            scene(thing(Colour.BLUE, Shape.SQUARE, x=0.4), thing(Colour.YELLOW, Shape.CIRCLE, x=0.625))
        ).video
    )
    assert {(s.colour, s.shape) for s in facts.things} == {
        (Colour.BLUE, Shape.SQUARE),
        (Colour.YELLOW, Shape.CIRCLE),
    }
    assert (facts.counts == 2).all()


def test_an_empty_ground_has_nothing_and_noise_is_not_explained() -> None:
    facts = read(render(scene(ground=Ground.NAVY)).video)
    assert facts.ground is Ground.NAVY
    assert not facts.things
    noise = read(np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype(np.uint8))
    assert not noise.things
    assert noise.unexplained.mean() > 0.1


@pytest.mark.parametrize("family", [Family.MANY, Family.TEXTURE])
def test_reads_crowds_and_textures(family: Family) -> None:
    for i in range(12):
        drawn = replace(sample(rng_of(5, i), family, Mix()), num_frames=8, stride_ticks=2)
        facts = read(render(drawn).video, 2)
        assert facts.ground is drawn.ground
        told = {(t.colour, t.shape, t.size, t.motion) for t in drawn.things}
        assert {(s.colour, s.shape, s.size, s.motion) for s in facts.things} == told


def half_hidden(n: int) -> list[Scene]:
    found, i = [], 0
    while len(found) < n:
        drawn = sample(rng_of(6, i), Family.RELATION, Mix())
        if drawn.relation is Relation.IN_FRONT_OF:
            found.append(replace(drawn, num_frames=8, stride_ticks=2))
        i += 1
    return found


def test_what_is_half_hidden_is_read_by_the_part_that_shows() -> None:
    """Colour, shape, size and motion of both things, in at least eleven scenes of twelve (n = 48:
    benchmarks/calibration.py)."""
    right = []
    for drawn in half_hidden(12):
        facts = read(render(drawn).video, 2)
        told = {(t.colour, t.shape, t.size, t.motion) for t in drawn.things}
        right.append({(s.colour, s.shape, s.size, s.motion) for s in facts.things} == told)
        behind = [s for s in facts.things if s.colour is drawn.things[0].colour]
        assert all(s.radii.mean() < 1.02 * drawn.things[0].radius for s in behind), (
            "radii are of what can be seen"
        )
    assert sum(right) >= 11


def test_what_is_hidden_for_a_while_is_read_from_the_other_frames() -> None:
    """A ring stands still, a large square passes over it."""
    ring = thing(Colour.YELLOW, Shape.RING, Size.MEDIUM, x=0.5, y=0.5)
    over = thing(Colour.BLUE, Shape.SQUARE, Size.MEDIUM, Motion.RIGHT, Speed.FAST, x=0.2, y=0.62)
    facts = read(render(scene(ring, over, num_frames=16)).video)
    found = {s.colour: s for s in facts.things}
    assert (found[Colour.YELLOW].shape, found[Colour.YELLOW].size) == (Shape.RING, Size.MEDIUM)
    assert (found[Colour.BLUE].shape, found[Colour.BLUE].size, found[Colour.BLUE].motion) == (
        Shape.SQUARE,
        Size.MEDIUM,
        Motion.RIGHT,
    )
    assert found[Colour.YELLOW].contacts.max() > 0.1 > 0.01 > found[Colour.YELLOW].contacts[0]


def test_touching_completes_nothing_that_is_whole() -> None:
    """Side by side, no part is hidden: sizes and shapes stay what they are."""
    for shape in Shape:
        for x in (0.6, 0.62, 0.65):
            facts = read(
                render(
                    scene(thing(Colour.BLUE, shape, x=0.38), thing(Colour.WHITE, shape, x=x), num_frames=4)
                ).video
            )
            assert {(s.shape, s.size) for s in facts.things} == {(shape, Size.MEDIUM)}


def test_floats_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8 f h w 3, got float32"):
        read(np.zeros((2, 8, 8, 3), np.float32))
