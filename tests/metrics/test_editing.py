"""O4: what counts as an edit, and what must not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vgen.metrics.editing import harmonic, score_edit
from vgen.metrics.metric import Numbers
from vgen.metrics.psnr import psnr
from vgen.metrics.scoring import score
from vgen.metrics.selftest import CONTROLS, blurred, noisy
from vgen.metrics.suite import Kind, Suite, tasks
from vgen.toybox.edits import Edit, EditPair, edit_pair
from vgen.toybox.renderer import render
from vgen.toybox.scenes import Motion, Scene

SUITE = Suite(iid=40, pair=0, triple=0, extrapolation=0, paraphrase=0, num_frames=8, stride_ticks=2)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Two things, at least one of which moves."""
    found = [t.scene for t in tasks(SUITE) if len(t.scene.things) == 2 and any(x.motion is not Motion.STATIC for x in t.scene.things)]
    assert len(found) >= 6
    return found[:6]


@pytest.fixture(scope="module", params=list(Edit), ids=lambda e: e.value)
def pairs(request: pytest.FixtureRequest, scenes: list[Scene]) -> list[EditPair]:
    return [edit_pair(scene, request.param, seed=0) for scene in scenes]


def mean(rows: list[Numbers]) -> dict[str, float]:
    return {k: float(np.mean(there)) for k in rows[0] if (there := [row[k] for row in rows if row[k] is not None])}


def drawn(scene: Scene) -> np.ndarray:
    return render(scene).video


def test_the_exact_target_is_a_perfect_edit(pairs: list[EditPair]) -> None:
    numbers = mean([score_edit(drawn(p.scene), drawn(p.edited), p) for p in pairs])
    assert numbers["edit_acc"] == numbers["edit_acc_all"] == numbers["bg"] == 1
    assert numbers["keep_acc"] > 0.95
    assert numbers["edit"] == numbers["edit_strict"] > 0.95
    assert numbers["oracle_psnr"] == 60


def test_a_copy_of_the_source_earns_nothing(pairs: list[EditPair]) -> None:
    numbers = mean([score_edit(drawn(p.scene), drawn(p.scene), p) for p in pairs])
    assert numbers["edit"] == numbers["edit_strict"] == numbers["edit_acc"] == 0
    assert numbers["keep_acc"] == 1
    assert numbers["traj"] > 0.9


def test_what_a_codec_does_is_forgiven(pairs: list[EditPair]) -> None:
    rng = np.random.default_rng(0)
    sides = [[noisy(blurred(drawn(s), 0.7), rng, 0.02) for s in (p.edited, p.scene)] for p in pairs]
    numbers = mean([score_edit(drawn(p.scene), edited, p, again) for p, (edited, again) in zip(pairs, sides, strict=True)])
    assert numbers["edit"] > 0.93
    assert numbers["bg"] > 0.98
    assert numbers["psnr_bg"] < 36


def test_a_task_is_judged_by_what_its_decoder_can_keep() -> None:
    """The headline's parts stay the same; only the ceiling of the ground is told."""
    [task] = tasks(Suite(kind=Kind.EDIT, iid=1, pair=0, triple=0, extrapolation=0, paraphrase=0, num_frames=8, stride_ticks=2))
    rng = np.random.default_rng(0)
    painted = noisy(blurred(drawn(task.scene), 0.7), rng, 0.04)
    alone = score(painted, task)
    told = score(painted, task, reconstruction=noisy(blurred(task.inputs().source, 0.7), rng, 0.04))
    assert alone["psnr_codec"] is None
    assert told["psnr_codec"] == pytest.approx(told["psnr_bg"], abs=0.2)
    assert alone["bg"] < 0.8 < 0.98 < told["bg"]
    assert {k for k in alone if alone[k] != told[k]} <= {"bg", "psnr_codec", "edit", "edit_strict"}
    [other] = tasks(Suite(iid=1, pair=0, triple=0, extrapolation=0, paraphrase=0))
    with pytest.raises(ValueError, match="is of kind text, which has no source to reconstruct"):
        score(drawn(other.scene), other, reconstruction=drawn(other.scene))


def test_half_an_edit_is_half_an_accuracy_and_no_strict_edit(pairs: list[EditPair]) -> None:
    rows = []
    for p in pairs:
        video = drawn(p.scene)
        video[4:] = drawn(p.edited)[4:]
        rows.append(score_edit(drawn(p.scene), video, p))
    numbers = mean(rows)
    assert numbers["edit_acc"] == pytest.approx(0.5)
    assert numbers["edit_acc_all"] == numbers["edit_strict"] == 0


@pytest.mark.parametrize(("trick", "most"), [("frozen", 0.5), ("shuffled", 0.6), ("reversed", 0.5), ("blank", 0.0), ("mean", 0.3)])
def test_tricks_on_the_target_stay_far_below_it(pairs: list[EditPair], trick: str, most: float) -> None:
    rng = np.random.default_rng(1)
    rows = [score_edit(drawn(p.scene), np.ascontiguousarray(CONTROLS[trick](drawn(p.edited), rng)), p) for p in pairs]
    assert mean(rows)["edit"] <= most


def test_a_fresh_clip_with_the_target_in_it_is_no_edit(pairs: list[EditPair]) -> None:
    """The right things, elsewhere and on their own ground."""
    rows = []
    for i, p in enumerate(pairs):
        other = pairs[i - 1].edited
        there = [replace(t, x=o.x, y=o.y) for t, o in zip(p.edited.things, other.things, strict=True)]
        rows.append(score_edit(drawn(p.scene), drawn(replace(p.edited, things=tuple(there), ground=other.ground)), p))
    assert mean(rows)["edit"] < 0.1


def test_drift_costs_the_trajectory(pairs: list[EditPair]) -> None:
    shifted = [replace(p.edited, things=tuple(replace(t, x=t.x + 0.05) for t in p.edited.things)) for p in pairs]
    numbers = mean([score_edit(drawn(p.scene), drawn(s), p) for p, s in zip(pairs, shifted, strict=True)])
    assert numbers["traj"] == pytest.approx(np.exp(-1), abs=0.05)
    assert numbers["edit_acc"] == 1


def test_editing_too_much_keeps_nothing(scenes: list[Scene]) -> None:
    both = [edit_pair(s, Edit.BOTH, seed=0) for s in scenes]
    rows = []
    for p in both:
        one = replace(p.scene, things=(p.edited.things[0], p.scene.things[1]))
        pair = replace(p, edited=one, edit=Edit.RECOLOUR, changed=(0,))
        rows.append(score_edit(drawn(p.scene), drawn(p.edited), pair))
    numbers = mean(rows)
    assert numbers["edit_acc"] == 1
    assert numbers["keep_acc"] == numbers["edit"] == 0


def test_recolouring_the_ground_too_costs_the_ground(scenes: list[Scene]) -> None:
    rows = []
    for scene in scenes:
        p, g = edit_pair(scene, Edit.RECOLOUR, seed=0), edit_pair(scene, Edit.GROUND, seed=0)
        rows.append(score_edit(drawn(scene), drawn(replace(p.edited, ground=g.edited.ground)), p))
    numbers = mean(rows)
    assert numbers["edit_acc"] == numbers["keep_acc"] == 1
    assert numbers["edit"] < 0.15


def test_something_added_is_not_kept(scenes: list[Scene]) -> None:
    p = edit_pair(scenes[0], Edit.RECOLOUR, seed=0)
    scene, edited = (replace(s, things=s.things[:1]) for s in (p.scene, p.edited))
    alone = replace(p, scene=scene, edited=edited, changed=(0,))
    assert score_edit(drawn(alone.scene), drawn(p.edited), alone)["keep_acc"] == 0


def test_harmonic_mean() -> None:
    assert harmonic((1, 1, 1, 0)) == 0
    assert harmonic((0.5, 1, 1, 1)) == pytest.approx(0.8)


def test_masked_psnr_does_not_depend_on_the_size_of_the_mask() -> None:
    a = np.full((1, 8, 8, 3), 100, np.uint8)
    b = a + np.uint8(10)
    small = np.zeros((1, 8, 8), bool)
    small[:, :2, :2] = True
    assert psnr(a, b, small) == psnr(a, b) == pytest.approx(20 * np.log10(25.5))
    assert psnr(a, a) == 60
    with pytest.raises(ValueError, match="needs a pixel of it, got none"):
        psnr(a, b, np.zeros((1, 8, 8), bool))
    with pytest.raises(ValueError, match="of one size, got"):
        psnr(a, b[:, :4])


def test_wrong_clips_speak(scenes: list[Scene]) -> None:
    p = edit_pair(scenes[0], Edit.GROUND, seed=0)
    source = drawn(p.scene)
    with pytest.raises(ValueError, match="the edited clip must be uint8 of the scene's 8 frames"):
        score_edit(source, source[:4], p)
    with pytest.raises(ValueError, match="the reconstructed clip must be uint8"):
        score_edit(source, source, p, source / 255)
    with pytest.raises(ValueError, match=r"a reconstruction must keep the ground to more than 16 dB"):
        score_edit(source, source, p, source ^ 128)
