"""The formulae, on clips made for them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vgen.metrics.scoring import score
from vgen.metrics.suite import Suite, Task, tasks
from vgen.metrics.text_accuracy import chance_corrected
from vgen.toybox.renderer import render
from vgen.toybox.sampling import redraw
from vgen.toybox.scenes import Ground, Motion, Scene, Size

SUITE = Suite(iid=12, pair=0, triple=0, extrapolation=0, paraphrase=0, num_frames=8, stride_ticks=2)


@pytest.fixture(scope="module")
def task() -> Task:
    """Two things, at least one of which moves."""
    return next(
        t
        for t in tasks(SUITE)
        if len(t.scene.things) == 2 and any(x.motion is not Motion.STATIC for x in t.scene.things)
    )


def drawn(scene: Scene) -> np.ndarray:
    return render(scene).video


def test_truth_is_exact_and_bound(task: Task) -> None:
    numbers = score(drawn(task.scene), task)
    assert numbers["exact"] == numbers["bind"] == numbers["count"] == numbers["perm"] == 1
    assert numbers["idsw"] == numbers["cflip"] == numbers["sflip"] == numbers["bgflick"] == 0


def test_a_missing_thing_scores_zero_everywhere(task: Task) -> None:
    numbers = score(drawn(replace(task.scene, things=task.scene.things[:1])), task)
    assert numbers["colour"] == numbers["shape"] == numbers["perm"] == 0.5
    assert numbers["count"] == numbers["exact"] == numbers["exact_image"] == 0


def test_swapped_colours_break_the_binding_alone(task: Task) -> None:
    a, b = task.scene.things
    if a.shape is b.shape:
        pytest.skip("needs two shapes")
    swapped = replace(task.scene, things=(replace(a, colour=b.colour), replace(b, colour=a.colour)))
    assert score(drawn(swapped), task)["bind"] == 0


def test_open_factors_are_not_scored(task: Task) -> None:
    other = next(g for g in (Ground.BLACK, Ground.NAVY) if g is not task.scene.ground)
    video = drawn(replace(task.scene, ground=other))
    assert score(video, task)["exact"] == 0
    numbers = score(video, replace(task, unspecified=("ground",)))
    assert (numbers["ground"], numbers["exact"]) == (None, 1)


def test_size_counts_and_speed_can_be_left_out(task: Task) -> None:
    a, b = task.scene.things
    size = next(s for s in Size if s is not a.size)
    assert (
        score(drawn(task.scene), replace(task, scene=replace(task.scene, things=(replace(a, size=size), b))))[
            "size"
        ]
        == 0.5
    )
    moving = next(i for i, t in enumerate((a, b)) if t.motion is not Motion.STATIC)
    speed = next(s for s in type(a.speed) if s is not task.scene.things[moving].speed)
    things = tuple(replace(t, speed=speed) if i == moving else t for i, t in enumerate((a, b)))
    numbers = score(drawn(task.scene), replace(task, scene=replace(task.scene, things=things)))
    assert (numbers["exact"], numbers["exact_without_speed"]) == (0, 1)


def test_a_still_is_scored_as_a_still(task: Task) -> None:
    still = replace(task, scene=replace(task.scene, num_frames=1))
    numbers = score(drawn(still.scene), still)
    assert numbers["exact_image"] == 1
    assert "motion" not in numbers


def test_a_clip_of_another_length_is_refused(task: Task) -> None:
    with pytest.raises(ValueError, match="has 3 frames where its task asks for 8"):
        score(drawn(task.scene)[:3], task)


def test_chance_is_zero_and_right_is_one() -> None:
    assert chance_corrected("colour", 1 / 8) == 0
    assert chance_corrected("motion", 1.0) == 1


def test_a_thing_that_blinks_costs_permanence_and_coherence(task: Task) -> None:
    video = drawn(task.scene)
    video[3] = drawn(replace(task.scene, things=()))[3]
    numbers = score(video, task)
    assert numbers["perm"] == pytest.approx(7 / 8)
    assert numbers["coherence"] == pytest.approx(5 / 7)


def test_right_stills_at_other_places_are_not_coherent() -> None:
    """An image model without time draws every frame right, each for itself."""
    for task in [t for t in tasks(SUITE) if len(t.scene.things) == 1][:4]:
        rng = np.random.default_rng(0)
        scattered = np.concatenate([drawn(redraw(rng, task.scene))[:1] for _ in range(8)])
        assert score(drawn(task.scene), task)["coherence"] == 1
        numbers = score(scattered, task)
        assert numbers["colour"] == 1
        assert numbers["coherence"] is not None
        assert numbers["coherence"] <= 3 / 7
