"""The reader of the camera against clips that ``camera.move`` makes: the truth is known in numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from vgen.data.camera import PATHS, TURNS, CameraMove, Move
from vgen.data.sample import Sample
from vgen.metrics.matching import match
from vgen.metrics.selftest import blurred, jpeg
from vgen.toybox.motion import ticks_of
from vgen.toybox.oracle import read
from vgen.toybox.oracle.camera import CameraMotion, read_camera
from vgen.toybox.renderer import render
from vgen.toybox.sampling import Family, Mix, rng_of, sample
from vgen.toybox.scenes import Camera, Scene

SIZE, FRAMES = 64, 16
SHARE = 0.8
PAN = (1 - SHARE) / SHARE / (FRAMES - 1)
"""Canvas widths a frame of a pan or a tilt."""
ZOOM = SHARE ** (-1 / (FRAMES - 1))
ROLL = math.radians(30) / (FRAMES - 1)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Two things, solid ground; those of training."""
    return [sample(rng_of(5, i), Family.CORE, Mix(two_things=1.0)) for i in range(12)]


def moved(scene: Scene, move: Move | None) -> np.ndarray:
    wish = CameraMove(move=move, share=SHARE)
    video = render(scene, wish.reading_px(SIZE)).video
    seen = wish.moved(Sample("a", video, ""), SIZE).video
    assert seen is not None
    return seen


def reading(scene: Scene, video: np.ndarray) -> CameraMotion | None:
    facts = read(video)
    pairs = [(thing, seen) for thing, seen in match(facts, scene) if seen is not None]
    return read_camera(pairs, ticks_of(scene))


def truth(move: Move | None) -> np.ndarray:
    """Pan, tilt, logarithm of zoom, roll."""
    right, down = PATHS.get(move, (0, 0))
    zoom = {Move.ZOOM_IN: math.log(ZOOM), Move.ZOOM_OUT: -math.log(ZOOM)}.get(move, 0.0)
    return np.array([right * PAN, down * PAN, zoom, TURNS.get(move, 0) * ROLL])


def numbers(found: CameraMotion | None) -> np.ndarray:
    assert found is not None
    roll = np.nan if found.roll is None else found.roll
    return np.array([found.pan, found.tilt, math.log(found.zoom), roll])


DAMAGE = {"truth": lambda video: video, "blur": blurred, "jpeg": lambda video: jpeg(video, 50)}
LIMITS = np.array([0.05 * PAN, 0.05 * PAN, 0.08 * math.log(ZOOM), 0.05 * ROLL])
"""Of the median of twelve clips: a twentieth of the move itself, of the smaller zoom one in twelve."""


@pytest.mark.parametrize("damage", list(DAMAGE))
@pytest.mark.parametrize("move", [None, *Move], ids=lambda move: move.value if move else "rest")
def test_every_move_is_read_in_its_own_numbers_and_in_no_other(
    scenes: list[Scene], move: Move | None, damage: str
) -> None:
    found = np.array([numbers(reading(scene, DAMAGE[damage](moved(scene, move)))) for scene in scenes])
    error = np.nanmedian(found, 0) - truth(move)
    assert (np.abs(error) <= LIMITS).all(), (error, LIMITS)


def test_two_moves_at_once_are_read_as_both(scenes: list[Scene]) -> None:
    camera = Camera(pan_x=0.006, pan_y=-0.004, zoom=1.008)
    for scene in scenes[:6]:
        found = numbers(reading(scene, render(replace(scene, camera=camera)).video))
        wanted = np.array([camera.pan_x, camera.pan_y, math.log(camera.zoom), 0])
        assert (np.abs(found - wanted) <= 6 * LIMITS).all()


def test_one_thing_tells_no_roll_and_none_tells_nothing(scenes: list[Scene]) -> None:
    alone = replace(scenes[0], things=scenes[0].things[:1])
    found = reading(alone, render(alone).video)
    assert found is not None
    assert found.roll is None
    assert abs(found.pan) < 0.1 * PAN
    empty = replace(scenes[0], things=())
    assert reading(empty, render(empty).video) is None
    assert read_camera([], ticks_of(alone)) is None
