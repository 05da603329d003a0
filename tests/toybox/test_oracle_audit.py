"""The second reader: independent of the first, in agreement with it on the truth, and outspoken where they
differ."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vgen.metrics.selftest import noisy
from vgen.metrics.suite import Suite, tasks
from vgen.toybox.oracle import audit as module
from vgen.toybox.oracle import read
from vgen.toybox.oracle.audit import Disagreement, audit, disagreements
from vgen.toybox.renderer import render
from vgen.toybox.scenes import Ground, Motion, Scene, Shape, Size, Thing

SUITE = Suite(iid=9, pair=2, triple=2, extrapolation=2, paraphrase=0, num_frames=8, stride_ticks=2)


def test_both_readers_agree_on_the_truth() -> None:
    """n = 160 of sixteen frames: all (benchmarks/calibration.py); here a few."""
    for task in tasks(SUITE):
        video = render(task.scene).video
        second = audit(video, 2)
        assert disagreements(read(video, 2), second) == [], task.caption
        told = {(t.colour, t.shape, t.size, t.motion) for t in task.scene.things}
        assert {(f.colour, f.shape, f.size, f.motion) for f in second.things} == told


def test_noise_does_not_divide_them() -> None:
    rng = np.random.default_rng(0)
    clips = [noisy(render(t.scene).video, rng) for t in tasks(SUITE)[:6]]
    assert sum(not disagreements(read(v, 2), audit(v, 2)) for v in clips) >= 5


def test_they_share_the_world_and_no_code() -> None:
    imported = {
        n.module
        for n in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8")))
        if isinstance(n, ast.ImportFrom)
    }
    readers = {m for m in imported if m and m.startswith("vgen.toybox.oracle")}
    assert readers == {"vgen.toybox.oracle.facts"}  # for the type of what the first one saw


def test_disagreements_are_plain_words() -> None:
    task = tasks(SUITE)[0]
    a, *rest = task.scene.things
    ground = next(g for g in (Ground.BLACK, Ground.NAVY) if g is not task.scene.ground)
    shape = next(s for s in (Shape.CROSS, Shape.CIRCLE) if s is not a.shape)
    other = replace(task.scene, things=(replace(a, shape=shape), *rest), ground=ground)
    found = disagreements(read(render(task.scene).video, 2), audit(render(other).video, 2))
    assert Disagreement("ground", task.scene.ground.value, ground.value) in found
    assert Disagreement(f"shape of the {a.colour.value} thing", a.shape.value, shape.value) in found
    gone = disagreements(
        read(render(task.scene).video, 2), audit(render(replace(task.scene, things=())).video, 2)
    )
    assert Disagreement(f"a {a.colour.value} thing", "there", "not there") in gone


def test_a_still_has_no_motion_and_floats_are_refused() -> None:
    [seen] = audit(render(Scene(things=(Thing(size=Size.LARGE, radius=0.158),), num_frames=1)).video).things
    assert seen.motion is None
    [moving] = audit(render(Scene(things=(Thing(motion=Motion.LEFT, velocity=0.02, x=0.7),))).video).things
    assert moving.motion is Motion.LEFT
    with pytest.raises(ValueError, match="second reader reads uint8"):
        audit(np.zeros((2, 8, 8, 3), np.float32))
