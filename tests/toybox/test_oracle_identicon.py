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
    return [
        replace(sample(rng_of(77, i), Family.IDENTICON, Mix()), num_frames=8, stride_ticks=2)
        for i in range(24)
    ]


def sprite(video: np.ndarray, scene: Scene) -> Sprite:
    thing = scene.things[0]
    return read_identicon(video, (thing.colour, thing.second), scene.stride_ticks)


def scored(videos: list[np.ndarray], scenes: list[Scene]) -> dict[str, float]:
    rows = [identity(sprite(v, s), s.things[0].code) for v, s in zip(videos, scenes, strict=True)]
    return {k: float(np.mean([row[k] for row in rows])) for k in rows[0]}


@pytest.mark.parametrize(
    ("damage", "least"), [("truth", 1.0), ("blur", 0.99), ("noise", 0.99), ("q75", 0.99), ("q30", 0.9)]
)
def test_codes_are_read_through_damage(scenes: list[Scene], damage: str, least: float) -> None:
    rng = np.random.default_rng(0)
    alter = {
        "truth": lambda v: v,
        "blur": blurred,
        "noise": lambda v: noisy(v, rng),
        "q75": lambda v: jpeg(v, 75),
        "q30": jpeg,
    }[damage]
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
    fakes = [
        replace(s, things=(replace(s.things[0], code=scenes[i - 1].things[0].code),))
        for i, s in enumerate(scenes)
    ]
    numbers = scored([render(s).video for s in fakes], scenes)
    assert numbers["bitacc"] < 0.6
    assert numbers["id_exact"] == 0
    assert numbers["verification"] < 0.65
    assert numbers["id_cons"] == 1


def test_no_sprite_has_no_identity(scenes: list[Scene]) -> None:
    blank = [render(replace(s, things=())).video for s in scenes]
    assert scored(blank, scenes) == {"bitacc": 0, "id_exact": 0, "verification": 0, "id_cons": 0}


def test_a_square_of_the_mean_colour_is_chance(scenes: list[Scene]) -> None:
    numbers = scored([flattened(s) for s in scenes], scenes)
    assert numbers["id_exact"] == 0
    assert numbers["bitacc"] <= 0.6


def histogram_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of whole clips, four bins a channel."""
    counts = [
        np.bincount((v.reshape(-1, 3) // 64) @ np.array([16, 4, 1]), minlength=64).astype(float)
        for v in (a, b)
    ]
    return float(counts[0] @ counts[1] / np.prod([np.linalg.norm(c) for c in counts]))


@pytest.mark.parametrize(
    ("control", "bits", "exact", "histogram"),
    [
        ("same", (1, 1), (1, 1), (1, 1)),  # the table: 1, 1, 1
        ("blur 1 px", (0.99, 1), (0.95, 1), (0.99, 1)),  # .997, .98, .999
        ("blur 2 px", (0.84, 0.95), (0.5, 0.9), (0.98, 1)),  # .87, .52, .996: sprites are larger here
        ("impostor", (0.45, 0.55), (0, 0), (0.995, 1)),  # .475, 0, 1.000
        ("mean colour", (0.4, 0.55), (0, 0), (0.96, 0.99)),  # .50, 0, .987
    ],
)
def test_the_table_of_identities(scenes: list[Scene], control: str, bits, exact, histogram) -> None:
    """Colours alone call an impostor the same, which is why no such number is offered."""
    truth = [render(s).video for s in scenes]
    match control:
        case "impostor":
            codes = [scenes[i - 1].things[0].code for i in range(len(scenes))]
            made = [
                render(replace(s, things=(replace(s.things[0], code=c),))).video
                for s, c in zip(scenes, codes, strict=True)
            ]
        case "mean colour":
            made = [flattened(s) for s in scenes]
        case _:
            sigma_px = {"same": 0, "blur 1 px": 1, "blur 2 px": 2}[control]
            made = [blurred(v, sigma_px) if sigma_px else v for v in truth]
    numbers = scored(made, scenes)
    seen = (
        numbers["bitacc"],
        numbers["id_exact"],
        np.mean([histogram_cosine(a, b) for a, b in zip(made, truth, strict=True)]),
    )
    for (least, most), value in zip((bits, exact, histogram), seen, strict=True):
        assert least - 1e-9 <= value <= most + 1e-9, seen


def flattened(scene: Scene) -> np.ndarray:
    """The subject in its mean colour."""
    drawn = render(scene)
    video, inside = drawn.video.copy(), drawn.masks.max(1) > 0.5
    video[inside] = video[inside].mean(0).astype(np.uint8)
    return video


def test_impostors_have_as_many_bits_and_are_the_same_every_time() -> None:
    others = impostors(0b1111000011110000)
    assert (others.sum(1) == 8).all()
    assert not (others == bits_of(0b1111000011110000)).all(1).any()
    assert np.array_equal(others, impostors(0b1111000011110000))


def test_prompt_and_leak_ask_for_ground_and_motion(scenes: list[Scene]) -> None:
    moving = next(
        s
        for s in scenes
        if s.things[0].motion not in (Motion.STATIC, Motion.LEFT) and s.ground is not Ground.NAVY
    )
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
