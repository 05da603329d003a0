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
    found = [
        t.scene
        for t in tasks(SUITE)
        if len(t.scene.things) == 2 and any(x.motion is not Motion.STATIC for x in t.scene.things)
    ]
    assert len(found) >= 6
    return found[:6]


@pytest.fixture(scope="module", params=list(Edit), ids=lambda e: e.value)
def pairs(request: pytest.FixtureRequest, scenes: list[Scene]) -> list[EditPair]:
    return [edit_pair(scene, request.param, seed=0) for scene in scenes]


def mean(rows: list[Numbers]) -> dict[str, float]:
    return {
        k: float(np.mean(there)) for k in rows[0] if (there := [row[k] for row in rows if row[k] is not None])
    }


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
    numbers = mean(
        [
            score_edit(drawn(p.scene), edited, p, again)
            for p, (edited, again) in zip(pairs, sides, strict=True)
        ]
    )
    assert numbers["edit"] > 0.93
    assert numbers["bg"] > 0.98
    assert numbers["psnr_bg"] < 36


def test_a_task_is_judged_by_what_its_decoder_can_keep() -> None:
    """The headline's parts stay the same; only the ceiling of the ground is told."""
    [task] = tasks(
        Suite(
            kind=Kind.EDIT,
            iid=1,
            pair=0,
            triple=0,
            extrapolation=0,
            paraphrase=0,
            num_frames=8,
            stride_ticks=2,
        )
    )
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


@pytest.mark.parametrize(
    ("trick", "most"), [("frozen", 0.5), ("shuffled", 0.6), ("reversed", 0.5), ("blank", 0.0), ("mean", 0.4)]
)
def test_tricks_on_the_target_stay_far_below_it(pairs: list[EditPair], trick: str, most: float) -> None:
    """The mean of all frames keeps what moves slowly; so it earns more than a blank clip."""
    rng = np.random.default_rng(1)
    rows = [
        score_edit(drawn(p.scene), np.ascontiguousarray(CONTROLS[trick](drawn(p.edited), rng)), p)
        for p in pairs
    ]
    assert mean(rows)["edit"] <= most


def test_a_fresh_clip_with_the_target_in_it_is_no_edit(pairs: list[EditPair]) -> None:
    """The right things, elsewhere and on their own ground."""
    rows = []
    for i, p in enumerate(pairs):
        other = pairs[i - 1].edited
        there = [replace(t, x=o.x, y=o.y) for t, o in zip(p.edited.things, other.things, strict=True)]
        rows.append(
            score_edit(drawn(p.scene), drawn(replace(p.edited, things=tuple(there), ground=other.ground)), p)
        )
    assert mean(rows)["edit"] < 0.1


def test_drift_costs_the_trajectory(pairs: list[EditPair]) -> None:
    shifted = [
        replace(p.edited, things=tuple(replace(t, x=t.x + 0.05) for t in p.edited.things)) for p in pairs
    ]
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


_EDIT_CELLS = ("edit_acc", "keep_acc", "traj", "psnr_bg", "edit")
# least and most: the table's value and this world's lie within, but where a comment says why not
_EDIT_TABLE = {
    "oracle": (
        (1, 1),
        (0.98, 1),
        (0.93, 1),
        (60, 60),
        (0.97, 1),
    ),  # the table: 1, 1, .99, 60, .997; centres are read to .002 widths here
    "source": ((0, 0), (0.98, 1), (0.93, 1), (60, 60), (0, 0.01)),  # 0, 1, .99, 60, .004
    "codec": ((0.97, 1), (0.95, 1), (0.9, 1), (33, 35), (0.95, 1)),  # 1, 1, .99, 34.0, .984
    "too much": ((1, 1), (0, 0), (0.93, 1), (60, 60), (0, 0.01)),  # 1, 0, .99, 60, .004
    "drift .12": ((0.6, 0.75), (0.58, 0.75), (0.16, 0.2), (20, 25), (0.28, 0.42)),  # .68, .68, .18, 23.6, .37
    "fresh": (
        (0, 0.17),
        (0, 0.1),
        (0, 0.03),
        (10, 15),
        (0, 0.01),
    ),  # .10, .04, .02, 13.4, .002; here two of twelve fit by chance
    "ground too": (
        (1, 1),
        (0.98, 1),
        (0.93, 1),
        (10, 16),
        (0, 0.15),
    ),  # 1, 1, .98, 12.7, .02: grounds of equal brightness cost less
    "half": ((0.5, 0.5), (0.98, 1), (0.93, 1), (60, 60), (0.77, 0.81)),  # .50, 1, .99, 60, .80
}


@pytest.fixture(scope="module")
def recolours() -> list[EditPair]:
    found = [t.scene for t in tasks(replace(SUITE, iid=60)) if len(t.scene.things) == 2]
    return [edit_pair(scene, Edit.RECOLOUR, seed=0) for scene in found[:12]]


@pytest.mark.parametrize("control", list(_EDIT_TABLE))
def test_the_table_of_edits(recolours: list[EditPair], control: str) -> None:
    rng, rows = np.random.default_rng(0), []
    for i, pair in enumerate(recolours):
        source, target, codec = drawn(pair.scene), drawn(pair.edited), None
        match control:
            case "oracle":
                made = target
            case "source":
                made = source
            case "codec":
                made, codec = (noisy(blurred(v, 0.7), rng, 0.02) for v in (target, source))
            case "too much":
                made = drawn(
                    replace(pair.edited, things=edit_pair(pair.scene, Edit.BOTH, seed=0).edited.things)
                )
                pair = _half_asked(pair)
            case "drift .12":
                made = _drifting(pair.edited, 0.12)
            case "fresh":
                other = recolours[i - 1].edited
                there = tuple(
                    replace(t, x=o.x, y=o.y) for t, o in zip(pair.edited.things, other.things, strict=True)
                )
                made = drawn(replace(pair.edited, things=there, ground=other.ground))
            case "ground too":
                made = drawn(
                    replace(pair.edited, ground=edit_pair(pair.scene, Edit.GROUND, seed=0).edited.ground)
                )
            case _:
                made = np.concatenate([source[:4], target[4:]])
        rows.append(score_edit(source, made, pair, codec))
    numbers = mean(rows)
    for cell, (least, most) in zip(_EDIT_CELLS, _EDIT_TABLE[control], strict=True):
        assert least - 1e-9 <= numbers[cell] <= most + 1e-9, (cell, numbers)


def _half_asked(pair: EditPair) -> EditPair:
    """One thing is to be recoloured, as :data:`Edit.BOTH` does it."""
    both = edit_pair(pair.scene, Edit.BOTH, seed=0).edited.things
    return replace(pair, edited=replace(pair.scene, things=(both[0], pair.scene.things[1])), changed=(0,))


def _drifting(scene: Scene, most: float) -> np.ndarray:
    """Everything slides aside by up to ``most`` widths in either axis, evenly from the first frame to the
    last."""
    shifts = np.linspace(0, most, scene.num_frames)
    astray = (
        replace(scene, things=tuple(replace(t, x=t.x + d, y=t.y + d) for t in scene.things)) for d in shifts
    )
    return np.stack([drawn(s)[k] for k, s in enumerate(astray)])


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
