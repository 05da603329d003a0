"""WARP: what moves as the scene does has no error, whatever colours it has, and what does not has one."""

from __future__ import annotations

import numpy as np
import pytest

from vgen.metrics.suite import Suite, tasks
from vgen.metrics.true_motion import warp_error
from vgen.toybox.renderer import render
from vgen.toybox.scenes import Motion, Scene

SUITE = Suite(iid=40, pair=0, triple=0, extrapolation=0, paraphrase=0, num_frames=8, stride_ticks=2)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    moving = [
        task.scene
        for task in tasks(SUITE)
        if task.scene.things and all(x.motion is not Motion.STATIC for x in task.scene.things)
    ]
    assert len(moving) >= 6
    return moving[:6]


def test_the_truth_is_steady_in_whatever_colours(scenes: list[Scene]) -> None:
    """Pixels between two colours move by parts of a pixel: that alone is left."""
    for scene in scenes:
        video = render(scene).video
        assert warp_error(video, scene) < 1
        assert warp_error(255 - video, scene) == pytest.approx(warp_error(video, scene))


def test_a_frozen_clip_and_a_boiling_one_are_not(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(0)
    for scene in scenes:
        video = render(scene).video
        frozen = np.repeat(video[:1], len(video), 0)
        boiling = np.clip(video + rng.normal(0, 25, video.shape), 0, 255).astype(np.uint8)
        assert warp_error(frozen, scene) > 2 * warp_error(video, scene)
        assert warp_error(boiling, scene) > warp_error(video, scene) + 0.5


def test_a_still_has_none(scenes: list[Scene]) -> None:
    assert warp_error(render(scenes[0]).video[:1], scenes[0]) is None
