"""The calibration table: what the truth, damage and tricks score on the core suite."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vgen.metrics.metric import Numbers
from vgen.metrics.scoring import score
from vgen.metrics.selftest import (
    CONTROLS,
    DEFECTS,
    blurred,
    flickering,
    jittering,
    jpeg,
    noisy,
    self_test,
    tricks_of,
)
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
    ("damage", "least"),
    [("truth", 0.98), ("blur 1 px", 0.95), ("noise .05", 0.95), ("jpeg q75", 0.95), ("jpeg q30", 0.85)],
)
def test_damage_is_read_through(rows: dict[str, list[Numbers]], damage: str, least: float) -> None:
    assert mean(rows[damage], "exact") >= least
    assert mean(rows[damage], "coherence") >= (0.99 if damage == "truth" else 0.85)


@pytest.mark.parametrize("trick", ["frozen", "shuffled", "reversed", "mean"])
def test_tricks_earn_the_static_captions_at_most(
    rows: dict[str, list[Numbers]], todo: list[Task], trick: str
) -> None:
    static = np.mean([all(t.motion is Motion.STATIC for t in task.scene.things) for task in todo])
    assert mean(rows[trick], "exact") <= static + 0.03
    assert mean(rows[trick], "motion_moving") <= 0.05


def test_frozen_is_perfect_by_the_naive_measure_and_nothing_by_the_gated_one(
    rows: dict[str, list[Numbers]], todo: list[Task]
) -> None:
    assert mean(rows["frozen"], "pixel_agreement") == 1
    moving = [
        row
        for row, task in zip(rows["frozen"], todo, strict=True)
        if all(t.motion is not Motion.STATIC for t in task.scene.things)
    ]
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
    assert mean(jitter, "motion_moving") > 0.75  # two pixels are three ticks of a slow thing's way
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
        ("truth", 0, 0.01),
        ("jitter", 0.02, 0.04),
        ("frozen", 0.03, 0.2),
        ("reversed", 0.04, 0.25),
        ("other clip", 0.15, 0.5),
        ("blank", 0.5, 0.5),
    ],
)
def test_the_distance_from_the_path(todo: list[Task], control: str, least: float, most: float) -> None:
    rng = np.random.default_rng(0)
    few = [t for t in todo if all(x.motion is not Motion.STATIC for x in t.scene.things)][:8]
    videos = [render(t.scene).video for t in few]
    alters = {**CONTROLS, "truth": lambda v, _: v, "jitter": lambda v, rng: jittering(v, rng)}
    made = (
        videos[1:] + videos[:1]
        if control == "other clip"
        else [np.ascontiguousarray(alters[control](v, rng)) for v in videos]
    )
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
    for damaged in (
        [blurred(render(t.scene).video, 2.0) for t in few],
        [noisy(render(t.scene).video, rng, 0.1) for t in few],
    ):
        rows = [score(v, t) for v, t in zip(damaged, few, strict=True)]
        assert mean(rows, "colour") >= 0.95
        assert mean(rows, "motion") >= 0.95
        assert mean(rows, "exact") >= 0.7


def test_swapped_colours_and_missing_frames(todo: list[Task]) -> None:
    """Both as in the table: binding is lost with every colour still there; a thing that blinks is still the
    same thing."""
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


_CELLS = (
    "colour",
    "shape",
    "motion",
    "count",
    "exact",
    "perm",
    "ade",
    "jerk",
    "area_cv",
    "bgflick",
    "pixel_agreement",
)
_TABLE = """
truth            .99-1    .99-1    .99-1    1-1      .98-1    1-1      0-.005   0-.005   0-.02    0-.05    .98-.995
blur 1 px        .99-1    .99-1    .98-1    .99-1    .95-1    .99-1    0-.008   0-.005   0-.02    0-.1     .98-.996
blur 2 px        .93-1    .85-.96  .9-1     .9-1     .7-.9    .9-1     0-.04    0-.05    0-.06    0-.4     .98-.997
noise .05        .99-1    .98-1    .98-1    .98-1    .95-1    .98-1    0-.008   0-.01    0-.03    12-15    .93-.95
noise .10        .98-1    .95-1    .95-1    .97-1    .95-1    .97-1    0-.015   0-.02    0-.04    22-27    .88-.91
jpeg q75         .99-1    .98-1    .98-1    .99-1    .95-1    .99-1    0-.008   0-.005   0-.02    .2-1.2   .98-.995
jpeg q30         .97-1    .95-1    .97-1    .97-1    .9-1     .97-1    0-.02    0-.02    0-.04    .3-1.5   .98-.995
frozen           .99-1    .99-1    STATIC   1-1      STATIC   1-1      .09-.18  0-0      0-0      0-0      1-1
shuffled         .99-1    .99-1    STATIC   1-1      STATIC   1-1      .06-.13  .12-.23  0-.02    0-.05    .96-.98
reversed         .99-1    .99-1    STATIC   1-1      STATIC   1-1      .1-.19   0-.005   0-.02    0-.05    .98-.995
swapped colours  .5-.7    .9-1     .9-1     1-1      .4-.62   1-1      .01-.06  0-.005   0-.02    0-.05    .98-.995
other clip       .05-.25  .05-.4   .1-.25   .45-.65  0-0      .8-.95   .25-.4   0-.15    0-.15    0-.05    .98-.995
blank            0-0      0-0      0-0      0-0      0-0      0-0      .5-.5    1-1      1-1      0-0      1-1
mean of all      0-0      0-0      0-0      0-0      0-0      0-0      .5-.5    1-1      1-1      0-2      .99-1
jitter 2 px      .99-1    .98-1    .75-.96  .99-1    .75-.95  .99-1    .02-.04  .05-.1   0-.02    0-.05    .97-.99
flicker 8 %      .97-1    .95-1    .97-1    .95-1    .9-1     .95-1    0-.015   0-.02    .03-.1   3-6      .96-.98
missing 4 of 16  .99-1    .99-1    .98-1    .75-.75  .95-1    .7-.78   0-.15    0-.02    0-.02    0-.05    .96-.99
"""  # noqa: E501
"""Least and most in each cell, which hold what evaluations elsewhere found and what this world gives. STATIC:
the share of captions in which nothing moves. What was not found counts here: half a width in ``ade``, 1 in
``jerk`` and ``area_cv``. Elsewhere JPEG q30 costs no fact (EXACT 1; here .94 over 256 clips): this world has
smaller things in colours nearer to their ground, whose corners 4:2:0 rounds off, and six shapes to confuse,
of which another clip has the right one less often."""
_BOUNDS = [
    (name.strip(), cell, bounds)
    for name, cells in ((line[:17], line[17:].split()) for line in _TABLE.strip().splitlines())
    for cell, bounds in zip(_CELLS, cells, strict=True)
]


@pytest.fixture(scope="module")
def controlled() -> tuple[dict[str, dict[str, float]], float]:
    """Means by row and cell over sixteen frames, and the share of captions in which nothing moves."""
    todo = tasks(Suite(iid=22, pair=5, triple=5, extrapolation=0, paraphrase=0))
    rng, truth = np.random.default_rng(0), [render(t.scene).video for t in todo]
    alters = {
        "truth": lambda v: v,
        "blur 1 px": blurred,
        "blur 2 px": lambda v: blurred(v, 2.0),
        "noise .05": lambda v: noisy(v, rng),
        "noise .10": lambda v: noisy(v, rng, 0.1),
        "jpeg q75": lambda v: jpeg(v, 75),
        "jpeg q30": jpeg,
        **{
            name: lambda v, alter=CONTROLS[name]: alter(v, rng)
            for name in ("frozen", "shuffled", "reversed", "blank")
        },
        "jitter 2 px": lambda v: jittering(v, rng),
        "flicker 8 %": lambda v: flickering(v, rng),
    }
    made = {name: [np.ascontiguousarray(alter(v)) for v in truth] for name, alter in alters.items()}
    made |= {"swapped colours": [_swapped(t.scene) for t in todo], "other clip": truth[1:] + truth[:1]}
    made["mean of all"] = [np.rint(np.mean(truth, 0)).astype(np.uint8)] * len(todo)
    made["missing 4 of 16"] = [_blinking(v, t.scene) for v, t in zip(truth, todo, strict=True)]
    means = {}
    for name, videos in made.items():
        scored = [score(v, t) | trajectory(read(v, 1), t.scene) for v, t in zip(videos, todo, strict=True)]
        means[name] = {cell: mean(scored, cell) for cell in _CELLS}
    return means, float(np.mean([all(t.motion is Motion.STATIC for t in task.scene.things) for task in todo]))


def _swapped(scene: Scene) -> np.ndarray:
    """The colours of two things; one thing keeps its own."""
    colours = [t.colour for t in scene.things[::-1]]
    return render(
        replace(scene, things=tuple(replace(t, colour=c) for t, c in zip(scene.things, colours, strict=True)))
    ).video


def _blinking(video: np.ndarray, scene: Scene) -> np.ndarray:
    out = video.copy()
    out[[3, 6, 9, 12]] = render(replace(scene, things=())).video[0]
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("row", "cell", "bounds"), _BOUNDS)
def test_the_table_of_controls(
    controlled: tuple[dict[str, dict[str, float]], float], row: str, cell: str, bounds: str
) -> None:
    means, static = controlled
    least, most = (static - 0.05, static + 0.1) if bounds == "STATIC" else map(float, bounds.split("-"))
    assert least - 1e-9 <= means[row][cell] <= most + 1e-9
