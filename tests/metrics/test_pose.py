"""Poses of a suite: late and flickering clips, and the still that stands beside the poses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vgen.metrics.kinds.control import AskedControl, Control, Picture
from vgen.metrics.scoring import score
from vgen.metrics.suite import Kind, Suite, Task, tasks
from vgen.toybox.oracle.pose import read_pose
from vgen.toybox.renderer import render

FEW: dict[str, Any] = {"pair": 0, "triple": 0, "extrapolation": 0, "paraphrase": 0}
POSES = Suite(kind=Kind.CONTROL, control=AskedControl(control=Control.POSE), iid=6, **FEW)


def asked(reference: Picture) -> list[Task]:
    return tasks(replace(POSES, control=AskedControl(control=Control.POSE, reference=reference)))


def test_the_truth_is_on_time_and_steady() -> None:
    for task in tasks(POSES):
        numbers = score(render(task.scene).video, task)
        assert numbers["lag"] == numbers["cflip"] == numbers["bgflick"] == 0


def test_a_clip_that_is_late_says_by_how_much() -> None:
    found = []
    for task in tasks(POSES):
        video = render(task.scene).video
        found.append(score(np.concatenate([video[:1], video[:1], video[:-2]]), task)["lag"])
    assert set(found) <= {0, 2}, "0 where next to nothing moves, as in a wave"
    assert sum(lag == 2 for lag in found) >= 3
    blank = np.full((16, 64, 64, 3), 12, np.uint8)
    assert score(blank, tasks(POSES)[0])["lag"] is None


def test_other_clothes_in_some_frames_and_a_ground_that_flickers_are_seen() -> None:
    task = tasks(POSES)[0]
    truth = render(task.scene).video
    thing = task.scene.things[0]
    swapped = replace(task.scene, things=(replace(thing, colour=thing.second, second=thing.colour),))
    clip = truth.copy()
    clip[:4] = render(swapped).video[:4]
    assert score(clip, task)["cflip"] == 4 / 16
    bright = truth.copy()
    bright[::2] = np.minimum(bright[::2].astype(int) + 10, 255)
    assert score(bright, task)["bgflick"] == pytest.approx(10, abs=0.5)
    assert score(np.full_like(truth, 12), task)["cflip"] == 1


def test_the_still_shows_who_is_asked_for() -> None:
    worn, grounds = {}, {}
    for picture in (Picture.OWN, Picture.OTHER, Picture.FIRST):
        todo = asked(picture)
        stills = [task.inputs(64).pictures["reference"] for task in todo]
        seen = [read_pose(still).clothes for still in stills]
        wanted = [(task.scene.things[0].colour, task.scene.things[0].second) for task in todo]
        worn[picture] = [a == b for a, b in zip(seen, wanted, strict=True)]
        grounds[picture] = [task.about.still.ground is task.scene.ground for task in todo]
    for picture in (Picture.OWN, Picture.FIRST):
        assert all(worn[picture])
        assert all(grounds[picture])
    assert not any(worn[Picture.OTHER])
    assert not any(grounds[Picture.OTHER])


def test_own_shows_another_pose_and_first_the_clips_own() -> None:
    own, first = asked(Picture.OWN)[0], asked(Picture.FIRST)[0]
    assert own.about.still.things[0].action is not own.scene.things[0].action
    video = render(first.scene).video
    np.testing.assert_array_equal(first.inputs(64).pictures["reference"], video[:1])
    ground = first.inputs(64).pictures["background"][0]
    far = render(first.scene).masks[0].max(0) == 0
    assert (ground[far] == video[0][far]).mean() > 0.95  # but for the marks of what moves
    assert asked(Picture.BLACK)[0].inputs(64).pictures["reference"].max() == 0


def test_clips_are_the_same_whatever_stands_beside_them() -> None:
    plain, shown = asked(Picture.NONE), asked(Picture.OTHER)
    assert [task.scene for task in plain] == [task.scene for task in shown]
    assert [task.seed for task in plain] == [task.seed for task in shown]
    assert plain[0].inputs(32).pictures == {}
    assert (
        POSES.rule()
        != replace(POSES, control=AskedControl(control=Control.POSE, reference=Picture.OWN)).rule()
    )
    assert "reference" not in POSES.rule()


def test_another_pose_is_asked_of_figures_alone() -> None:
    with pytest.raises(ValueError, match=r"reference=own shows a figure.*control=edges.*reference=first"):
        Suite(kind=Kind.CONTROL, control=AskedControl(reference=Picture.OWN), iid=1, **FEW)
    given = Suite(kind=Kind.CONTROL, control=AskedControl(reference=Picture.FIRST), iid=1, **FEW)
    assert tasks(given)[0].inputs(32).pictures["reference"].shape == (1, 32, 32, 3)
