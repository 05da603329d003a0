"""Whose sprite is it? What the reader must decode, and what it must not take for one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vgen.metrics.identity import bits_of, identity, impostors, leak, prompt_fidelity
from vgen.metrics.selftest import blurred, jpeg, noisy
from vgen.toybox.oracle.identicon import Sprite, read_identicon
from vgen.toybox.renderer import render
from vgen.toybox.sampling import Family, Mix, rng_of, sample
from vgen.toybox.scenes import Ground, Motion, Scene


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [replace(sample(rng_of(77, i), Family.IDENTICON, Mix()), num_frames=8, stride_ticks=2) for i in range(24)]


def sprite(video: np.ndarray, scene: Scene) -> Sprite:
    thing = scene.things[0]
    return read_identicon(video, (thing.colour, thing.second), scene.stride_ticks)


def scored(videos: list[np.ndarray], scenes: list[Scene]) -> dict[str, float]:
    rows = [identity(sprite(v, s), s.things[0].code) for v, s in zip(videos, scenes, strict=True)]
    return {k: float(np.mean([row[k] for row in rows])) for k in rows[0]}


@pytest.mark.parametrize(("damage", "least"), [("truth", 1.0), ("blur", 0.99), ("noise", 0.99), ("q75", 0.99), ("q30", 0.9)])
def test_codes_are_read_through_damage(scenes: list[Scene], damage: str, least: float) -> None:
    rng = np.random.default_rng(0)
    alter = {"truth": lambda v: v, "blur": blurred, "noise": lambda v: noisy(v, rng), "q75": lambda v: jpeg(v, 75), "q30": jpeg}[damage]
    numbers = scored([alter(render(s).video) for s in scenes], scenes)
    assert numbers["bitacc"] >= least
    assert numbers["id_exact"] >= least - 0.05
    assert numbers["verification"] >= least
    assert numbers["id_cons"] >= least - 0.02


def test_a_strong_blur_costs_the_whole_code_before_its_bits(scenes: list[Scene]) -> None:
    numbers = scored([blurred(render(s).video, 2.0) for s in scenes], scenes)
    assert 0.8 < numbers["bitacc"] < 1
    assert numbers["id_exact"] < numbers["bitacc"]


def test_an_impostor_of_the_same_histogram_is_found_out(scenes: list[Scene]) -> None:
    fakes = [replace(s, things=(replace(s.things[0], code=scenes[i - 1].things[0].code),)) for i, s in enumerate(scenes)]
    numbers = scored([render(s).video for s in fakes], scenes)
    assert numbers["bitacc"] < 0.6
    assert numbers["id_exact"] == 0
    assert numbers["verification"] < 0.65
    assert numbers["id_cons"] == 1


def test_no_sprite_has_no_identity(scenes: list[Scene]) -> None:
    blank = [render(replace(s, things=())).video for s in scenes]
    assert scored(blank, scenes) == {"bitacc": 0, "id_exact": 0, "verification": 0, "id_cons": 0}


def test_a_square_of_the_mean_colour_is_chance(scenes: list[Scene]) -> None:
    flat = [render(s).masks.max(1)[..., None] for s in scenes]
    videos = []
    for s, mask in zip(scenes, flat, strict=True):
        video = render(s).video
        inside = mask[..., 0] > 0.5
        video[inside] = video[inside].mean(0).astype(np.uint8)
        videos.append(video)
    numbers = scored(videos, scenes)
    assert numbers["id_exact"] == 0
    assert numbers["bitacc"] <= 0.6


def test_impostors_have_as_many_bits_and_are_the_same_every_time() -> None:
    others = impostors(0b1111000011110000)
    assert (others.sum(1) == 8).all()
    assert not (others == bits_of(0b1111000011110000)).all(1).any()
    assert np.array_equal(others, impostors(0b1111000011110000))


def test_prompt_and_leak_ask_for_ground_and_motion(scenes: list[Scene]) -> None:
    moving = next(s for s in scenes if s.things[0].motion not in (Motion.STATIC, Motion.LEFT) and s.ground is not Ground.NAVY)
    asked = replace(moving, ground=Ground.NAVY)
    obeyed, ignored = sprite(render(asked).video, asked), sprite(render(moving).video, asked)
    assert prompt_fidelity(obeyed, asked) == 1
    assert prompt_fidelity(ignored, asked) == 0
    assert leak(ignored, asked, shown=moving) == 1
    assert leak(obeyed, asked, shown=moving) == 0
    assert leak(obeyed, moving, shown=moving) is None


def test_floats_are_refused(scenes: list[Scene]) -> None:
    with pytest.raises(ValueError, match="identicon reader reads uint8"):
        sprite(np.zeros((2, 8, 8, 3), np.float32), scenes[0])
