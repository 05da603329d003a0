"""The calibration table: what the truth, damage and tricks score on the core suite."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vgen.metrics.metric import Numbers
from vgen.metrics.scoring import score
from vgen.metrics.selftest import CONTROLS, DEFECTS, blurred, jittering, noisy, self_test, tricks_of
from vgen.metrics.suite import Suite, Task, tasks
from vgen.metrics.temporal_consistency import carried_residual
from vgen.metrics.trajectory import trajectory
from vgen.toybox.oracle import read
from vgen.toybox.renderer import render
from vgen.toybox.scenes import Ground, Motion, Scene


@pytest.fixture(scope="module")
def todo() -> list[Task]:
    return tasks(Suite(iid=28, pair=6, triple=6, extrapolation=0, paraphrase=0, num_frames=8, stride_ticks=2))


@pytest.fixture(scope="module")
def rows(todo: list[Task]) -> dict[str, list[Numbers]]:
    return self_test(todo)


def mean(rows: list[Numbers], key: str) -> float:
    return float(np.mean([v for row in rows if (v := row[key]) is not None]))


@pytest.mark.parametrize(
    ("damage", "least"), [("truth", 0.98), ("blur 1 px", 0.95), ("noise .05", 0.95), ("jpeg q75", 0.95), ("jpeg q30", 0.85)]
)
def test_damage_is_read_through(rows: dict[str, list[Numbers]], damage: str, least: float) -> None:
    assert mean(rows[damage], "exact") >= least
    assert mean(rows[damage], "coherence") >= (0.99 if damage == "truth" else 0.85)


@pytest.mark.parametrize("trick", ["frozen", "shuffled", "reversed", "mean"])
def test_tricks_earn_the_static_captions_at_most(rows: dict[str, list[Numbers]], todo: list[Task], trick: str) -> None:
    static = np.mean([all(t.motion is Motion.STATIC for t in task.scene.things) for task in todo])
    assert mean(rows[trick], "exact") <= static + 0.03
    assert mean(rows[trick], "motion_moving") <= 0.05


def test_frozen_is_perfect_by_the_naive_measure_and_nothing_by_the_gated_one(rows: dict[str, list[Numbers]], todo: list[Task]) -> None:
    assert mean(rows["frozen"], "pixel_agreement") == 1
    moving = [row for row, task in zip(rows["frozen"], todo, strict=True) if all(t.motion is not Motion.STATIC for t in task.scene.things)]
    assert mean(moving, "tc") == 0
    assert mean(rows["truth"], "tc") > 0.9


def test_blank_earns_nothing(rows: dict[str, list[Numbers]]) -> None:
    for key in ("exact", "colour", "shape", "size", "motion", "speed", "count", "perm", "tc", "coherence"):
        assert mean(rows["blank"], key) == 0, key


def test_another_clip_is_near_chance(rows: dict[str, list[Numbers]]) -> None:
    assert mean(rows["other clip"], "exact") == 0
    assert mean(rows["other clip"], "colour") < 0.3
    assert mean(rows["other clip"], "motion") < 0.35


def test_shuffling_shows_in_the_jerk(rows: dict[str, list[Numbers]]) -> None:
    assert mean(rows["shuffled"], "jerk") > 0.1 > 10 * mean(rows["truth"], "jerk")


def test_flicker_shows_in_ground_area_and_bodies_and_in_no_fact(rows: dict[str, list[Numbers]]) -> None:
    flicker, truth = rows["flicker 8 %"], rows["truth"]
    assert mean(flicker, "exact") > 0.9
    assert mean(flicker, "bgflick") > 2.5 > 0.1 > mean(truth, "bgflick")
    assert mean(flicker, "area_cv") > 2 * mean(truth, "area_cv")
    assert mean(flicker, "mcres") > 0.03 > 0.015 > mean(truth, "mcres")
    assert mean(flicker, "pixel_agreement") > 0.95, "what the naive measure makes of it"
    assert mean(flicker, "tc") < 0.8 * mean(truth, "tc")


def test_jitter_shows_in_the_path_and_hardly_in_the_facts(rows: dict[str, list[Numbers]]) -> None:
    jitter, truth = rows["jitter 2 px"], rows["truth"]
    for key in ("colour", "shape", "size", "count", "perm"):
        assert mean(jitter, key) >= mean(truth, key) - 0.04, key
    assert mean(jitter, "motion_moving") > 0.8
    assert 0.05 < mean(jitter, "jerk") < 0.1
    assert mean(jitter, "pixel_agreement") > 0.97
    assert mean(jitter, "tc") < 0.4 * mean(truth, "tc")


def test_defects_are_no_floor(todo: list[Task]) -> None:
    assert not set(DEFECTS) & set(tricks_of(todo))
    stills = [replace(t, scene=replace(t.scene, num_frames=1)) for t in todo[:2]]
    assert not set(DEFECTS) & set(self_test(stills))


@pytest.mark.parametrize(
    ("control", "least", "most"),
    [
        ("truth", 0, 0.01), ("jitter", 0.02, 0.04), ("frozen", 0.03, 0.2), ("reversed", 0.04, 0.25), ("other clip", 0.15, 0.5),
        ("blank", 0.5, 0.5),
    ],
)
def test_the_distance_from_the_path(todo: list[Task], control: str, least: float, most: float) -> None:
    rng = np.random.default_rng(0)
    few = [t for t in todo if all(x.motion is not Motion.STATIC for x in t.scene.things)][:8]
    videos = [render(t.scene).video for t in few]
    alters = {**CONTROLS, "truth": lambda v, _: v, "jitter": lambda v, rng: jittering(v, rng)}
    made = videos[1:] + videos[:1] if control == "other clip" else [np.ascontiguousarray(alters[control](v, rng)) for v in videos]
    found = [trajectory(read(v, 2), t.scene) for v, t in zip(made, few, strict=True)]
    assert least <= np.mean([f["ade"] for f in found]) <= most
    if control in ("truth", "blank"):
        assert {f["on_path"] for f in found} == {float(control == "truth")}
    assert trajectory(read(videos[0], 2), Scene(things=())) == {"ade": None, "on_path": None}


def test_a_body_carried_along_is_itself_and_one_that_boils_is_not(todo: list[Task]) -> None:
    task = next(t for t in todo if len(t.scene.things) == 1 and t.scene.things[0].motion is not Motion.STATIC)
    video = render(task.scene).video
    facts = read(video, 2)
    [seen] = facts.things
    assert carried_residual(seen, video, facts.bodies) < 0.015
    boiling = video.astype(int)
    boiling[::2][facts.bodies[::2]] += 20
    changed = carried_residual(seen, np.clip(boiling, 0, 255).astype(np.uint8), facts.bodies)
    assert 0.03 < changed <= 20 / 255 + 0.015
    apart = replace(seen, frames=seen.frames[::2], centres=seen.centres[::2])
    assert carried_residual(apart, video, facts.bodies) == 0


def test_worse_blur_and_noise_cost_shapes_first(todo: list[Task]) -> None:
    rng = np.random.default_rng(0)
    few = todo[:12]
    for damaged in ([blurred(render(t.scene).video, 2.0) for t in few], [noisy(render(t.scene).video, rng, 0.1) for t in few]):
        rows = [score(v, t) for v, t in zip(damaged, few, strict=True)]
        assert mean(rows, "colour") >= 0.95
        assert mean(rows, "motion") >= 0.95
        assert mean(rows, "exact") >= 0.7


def test_swapped_colours_and_missing_frames(todo: list[Task]) -> None:
    """Both as in the table: binding is lost with every colour still there; a thing that blinks is still the same thing."""
    pairs = [t for t in todo if len(t.scene.things) == 2][:6]
    swapped = []
    for task in pairs:
        a, b = task.scene.things
        swapped.append(replace(task.scene, things=(replace(a, colour=b.colour), replace(b, colour=a.colour))))
    rows = [score(render(s).video, t) for s, t in zip(swapped, pairs, strict=True)]
    assert mean(rows, "exact") <= 0.2
    assert mean(rows, "count") == mean(rows, "perm") == 1
    blinking = [render(t.scene).video for t in pairs]
    for video, task in zip(blinking, pairs, strict=True):
        video[[2, 5]] = render(replace(task.scene, things=())).video[[2, 5]]
    rows = [score(v, t) for v, t in zip(blinking, pairs, strict=True)]
    assert mean(rows, "exact") > 0.9
    assert mean(rows, "count") == mean(rows, "perm") == 0.75


def test_an_unknown_ground_is_not_the_one_asked_for(todo: list[Task]) -> None:
    task = next(t for t in todo if t.scene.ground is not Ground.GRAY)
    numbers = score(render(replace(task.scene, ground=Ground.GRAY)).video, task)
    assert (numbers["ground"], numbers["exact"]) == (0, 0)
