"""The miniature world: exact, deterministic, with the marginals it claims."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from vgen.toybox import sampling
from vgen.toybox.captions import ADVERBS, HELD_OUT_TEMPLATES, TEMPLATES, caption, vocabulary
from vgen.toybox.contrast import KINDS, distractors, paraphrase
from vgen.toybox.edits import Edit, edit_pair
from vgen.toybox.glyphs import inside
from vgen.toybox.motion import paths
from vgen.toybox.oracle.identicon import read_identicon
from vgen.toybox.renderer import render
from vgen.toybox.sampling import Beyond, Family, Mix, corpus, rng_of, sample, scene_at
from vgen.toybox.scenes import (
    CORE_MOTIONS,
    DIRECTION,
    SOLIDS,
    SPEED,
    Camera,
    Colour,
    Ground,
    Kind,
    Motion,
    Scene,
    Shape,
    Size,
    Speed,
    Thing,
    check_length,
)
from vgen.toybox.splits import Bucket, bucket_of, class_weights, pair_held_out, triple_held_out


@pytest.mark.parametrize("shape", list(Shape))
def test_shapes_have_the_area_of_a_unit_circle_and_their_centroid_at_the_origin(shape: Shape) -> None:
    grid = (np.arange(1000) + 0.5) / 250 - 2
    x, y = np.meshgrid(grid, grid)
    mask = inside(shape, x, y)
    assert mask.sum() * 0.004**2 == pytest.approx(np.pi, rel=0.01)
    assert abs((x * mask).sum() / mask.sum()) < 0.005
    assert abs((y * mask).sum() / mask.sum()) < 0.005


@pytest.mark.parametrize("family", list(Family))
def test_scenes_survive_json_and_render_the_same_twice(family: Family) -> None:
    scene = sample(rng_of(1, 2), family, Mix())
    assert Scene.from_dict(scene.to_dict()) == scene
    assert np.array_equal(render(scene).video, render(scene).video)


def test_a_scene_depends_on_seed_and_index_alone() -> None:
    first = list(corpus(6, seed=4))
    assert first == [scene_at(i, 4, Mix()) for i in range(6)]
    assert first != list(corpus(6, seed=5))


def test_bodies_stay_on_the_canvas_and_apart() -> None:
    for i in range(40):
        scene = sample(rng_of(9, i), Family.CORE, Mix())
        masks = render(replace(scene, num_frames=4, stride_ticks=5), 64).masks
        assert (
            masks[:, :, 0].max()
            == masks[:, :, -1].max()
            == masks[:, :, :, 0].max()
            == masks[:, :, :, -1].max()
            == 0
        )
        if len(scene.things) == 2:
            assert not ((masks[:, 0] > 0.5) & (masks[:, 1] > 0.5)).any()


def test_motions_do_what_they_are_called() -> None:
    for motion, (dx, dy) in DIRECTION.items():
        thing = Thing(motion=motion, velocity=0.02)
        moved = paths(Scene(things=(thing,)))[0, -1, :2] - [0.5, 0.5]
        np.testing.assert_allclose(moved, np.array([dx, dy]) * 0.02 * 15, atol=1e-9)
    strided = Scene(things=(Thing(motion=Motion.LEFT, velocity=0.02),), num_frames=8, stride_ticks=2)
    np.testing.assert_allclose(paths(strided)[0, :, 0], 0.5 - 0.04 * np.arange(8))


def test_flow_carries_a_thing_to_its_next_place() -> None:
    scene = Scene(things=(Thing(motion=Motion.RIGHT, velocity=0.02, x=0.3),), num_frames=3)
    out = render(scene)
    moved = out.flow()[0][out.masks[0, 0] > 0.5]
    np.testing.assert_allclose(moved, np.tile([0.02 * 64, 0.0], (len(moved), 1)), atol=1e-4)
    assert out.edges().max() == 255


PANNED = Camera(pan_x=0.012, pan_y=-0.007, zoom=1.01)


@pytest.mark.parametrize(
    ("scene", "least"),
    [
        (Scene(things=(), ground=Ground.CHECKER, camera=PANNED), 0.75),
        (Scene(things=(), ground=Ground.STRIPES, camera=PANNED), 0.75),
        (
            Scene(
                things=(Thing(motion=Motion.LEFT, velocity=0.02, x=0.7),),
                ground=Ground.CHECKER,
                camera=PANNED,
                cues=False,
            ),
            0.75,
        ),
        *(
            (replace(sample(rng_of(i), Family.PUPPET, Mix()), camera=c), 0.6)
            for i in range(6)
            for c in (Camera(), PANNED)
        ),
    ],
)
def test_flow_says_where_every_pixel_is_seen_next(scene: Scene, least: float) -> None:
    """The next frame, looked up where the flow points, is this one: far closer than it is unmoved."""
    out = render(replace(scene, num_frames=4, stride_ticks=2), 128)
    rows, columns = np.mgrid[:128, :128]
    there = (
        np.ones((3, 128, 128), bool)
        if not scene.things or scene.ground is Ground.CHECKER
        else out.masks[:-1, 0] > 0.5
    )
    left, unmoved = [], []
    for now, after, flow, counts in zip(out.video[:-1], out.video[1:], out.flow(), there, strict=True):
        at = [rows + flow[..., 1], columns + flow[..., 0]]
        counts = counts & (at[0] >= 0) & (at[0] <= 127) & (at[1] >= 0) & (at[1] <= 127)
        carried = np.stack(
            [map_coordinates(after[..., c].astype(float), at, order=1, mode="nearest") for c in range(3)], -1
        )
        left.append(np.abs(carried - now)[counts].mean())
        unmoved.append(np.abs(after.astype(float) - now)[counts].mean())
    assert np.mean(left) < (1 - least) * np.mean(unmoved)


@pytest.mark.parametrize(
    "motion", [Motion.UP_RIGHT, Motion.BOUNCE, Motion.ORBIT_CW, Motion.ORBIT_CCW, Motion.GROW, Motion.ROTATE]
)
@pytest.mark.parametrize("kind", [Kind.SHAPE, Kind.IDENTICON])
def test_a_camera_that_travels_by_whole_pixels_shifts_the_picture_and_changes_no_mark(
    kind: Kind, motion: Motion
) -> None:
    thing = Thing(
        kind=kind, code=0b1100_1010_0110_0101, motion=motion, velocity=0.02, x=0.6, y=0.4, phase=1.0
    )
    scene = Scene(things=(thing,), num_frames=6)
    resting, panned = (
        render(scene).video,
        render(replace(scene, camera=Camera(pan_x=1 / 64, pan_y=-1 / 64))).video,
    )
    for k in range(6):
        there = np.s_[: 64 - k, k:], np.s_[k:, : 64 - k]
        assert (
            np.abs(resting[k][there[0]].astype(int) - panned[k][there[1]].astype(int)).max() <= 16
        )  # an edge on a sample's border


def test_a_camera_loses_nothing() -> None:
    for i in range(60):
        scene = sample(rng_of(10, i), (Family.CORE, Family.MOTION)[i % 2], Mix(camera=1.0))
        masks = render(scene).masks
        assert max(masks[:, :, [0, -1]].max(), masks[..., [0, -1]].max()) <= 0.25  # within the last pixel


def test_an_identicon_that_moves_wears_it_and_shows_its_whole_code() -> None:
    code = 0b1100_1010_0110_0101
    motions = (Motion.STATIC, Motion.LEFT, Motion.GROW, Motion.SHRINK)
    things = [Thing(kind=Kind.IDENTICON, code=code, motion=m, velocity=0.02, radius=0.18) for m in motions]
    first = [render(Scene(things=(t,), num_frames=1)) for t in things]
    still, left, grow, shrink = (r.video[0].astype(int) for r in first)
    bare = [render(Scene(things=(t,), num_frames=1, cues=False)).video[0].astype(int) for t in things]
    np.testing.assert_array_equal(still, bare[0])
    behind, ahead = np.abs(left - bare[1])[:, 40:], np.abs(left - bare[1])[:, :24]
    assert behind.max() > 30
    assert ahead.max() == 0
    assert (grow - bare[2]).max() > (shrink - bare[3]).max() + 20
    for thing in things:
        sprite = read_identicon(render(Scene(things=(thing,))).video, (thing.colour, thing.second))
        np.testing.assert_array_equal(sprite.code(), [(code >> i) & 1 == 1 for i in range(16)])


def test_what_moves_wears_it_and_what_rests_does_not() -> None:
    still, moving = (
        Scene(things=(Thing(motion=m, velocity=0.02, colour=Colour.RED),), num_frames=1)
        for m in (Motion.STATIC, Motion.LEFT)
    )
    assert len(np.unique(render(still).video[0].reshape(-1, 3), axis=0)) < len(
        np.unique(render(moving).video[0].reshape(-1, 3), axis=0)
    )
    for scene in (still, moving):
        bare = render(replace(scene, cues=False)).video
        assert np.array_equal(bare, render(replace(still, cues=False)).video)


def test_every_single_value_keeps_its_marginal() -> None:
    weights = class_weights(1.0)
    np.testing.assert_allclose(weights.sum((1, 2)), 1 / 8, atol=1e-6)
    np.testing.assert_allclose(weights.sum((0, 2)), 1 / 6, atol=1e-6)
    core = [m in CORE_MOTIONS for m in Motion]
    np.testing.assert_allclose(weights.sum((0, 1))[core], 1 / 9, atol=1e-6)
    assert weights[pair_held_out() | triple_held_out()].max() == 0
    assert not (pair_held_out() & triple_held_out()).any()


def test_rejection_does_not_thin_a_class() -> None:
    things = [t for i in range(600) for t in sample(rng_of(3, i), Family.CORE, Mix()).things]
    static = sum(t.motion is Motion.STATIC for t in things) / len(things)
    assert static == pytest.approx(1 / 9, abs=0.03)
    sizes = Counter(t.size for t in things)
    assert min(sizes[s] for s in Size) / len(things) > 0.27
    assert {bucket_of(t) for t in things} == {Bucket.IID}


@pytest.mark.parametrize(
    "family", [Family.CORE, Family.MANY, Family.MOTION, Family.RELATION, Family.IDENTICON]
)
def test_what_has_no_room_changes_its_size_and_speed_and_keeps_its_class(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    def classes() -> list[tuple[Colour, Shape, Motion]]:
        drawn = [sample(rng_of(11, i), family, Mix()) for i in range(20)]
        return [(t.colour, t.shape, t.motion) for scene in drawn for t in scene.things]

    placed, refused, place = classes(), 0, sampling.place

    def crowded(*args: Any) -> list[Thing] | None:
        nonlocal refused
        refused += 1
        return None if refused % 3 else place(*args)

    monkeypatch.setattr(sampling, "place", crowded)
    assert classes() == placed
    assert refused >= 60


def test_what_can_have_no_room_is_said() -> None:
    with pytest.raises(
        ValueError,
        match=r"family many has no room for 200 ticks whatever its sizes and speeds; ask for fewer frames",
    ):
        sample(rng_of(0), Family.MANY, Mix(), beyond=Beyond(ticks=200))


def test_a_lent_motion_makes_no_combination_that_is_held_out() -> None:
    things = [t for i in range(300) for t in sample(rng_of(4, i), Family.RELATION, Mix()).things]
    assert {bucket_of(t) for t in things} == {Bucket.IID}


def test_captions_say_all_and_only_what_is_there() -> None:
    scene = Scene(
        things=(
            Thing(colour=Colour.RED, shape=Shape.STAR, size=Size.SMALL, motion=Motion.LEFT, speed=Speed.FAST),
            Thing(colour=Colour.BLUE),
        ),
        ground=Ground.NAVY,
    )
    for i in range(40):
        words = caption(scene, rng_of(i)).text.split()
        assert {"red", "star", "blue", "circle", "navy"} <= set(words)
        assert set(words) <= set(vocabulary()) | {"mid-sized"}
    open_ = caption(scene, rng_of(0), unspecified=("size", "speed", "ground"))
    assert "navy" not in open_.text
    assert not {"small", "little", "tiny", "fast", "quickly", "rapidly"} & set(open_.text.split())
    assert len(HELD_OUT_TEMPLATES) * 4 == len(TEMPLATES)


def test_puppets_have_joints_and_identicons_one_histogram() -> None:
    puppet = sample(rng_of(1), Family.PUPPET, Mix())
    assert np.isfinite(render(puppet, 64).keypoints).all()
    codes = [sample(rng_of(i), Family.IDENTICON, Mix()).things[0] for i in range(20)]
    assert {bin(t.code).count("1") for t in codes} == {8}
    assert all(t.kind is Kind.IDENTICON for t in codes)


@pytest.mark.parametrize("edit", list(Edit))
def test_an_edit_changes_one_fact_and_its_words(edit: Edit) -> None:
    for i in range(12):
        scene = replace(
            sample(rng_of(5, i), Family.CORE, Mix(two_things=float(edit is Edit.BOTH))), seed=i, num_frames=2
        )
        pair = edit_pair(scene, edit, seed=0)
        a, b = pair.source.split(), pair.target.split()
        assert len(a) == len(b)
        assert sum(x != y for x, y in zip(a, b, strict=True)) == (2 if edit is Edit.BOTH else 1)
        before, after = render(scene), render(pair.edited)
        assert not np.array_equal(before.video, after.video)
        np.testing.assert_array_equal(before.states, after.states)
    with pytest.raises(ValueError, match="changes a shape, the scene has none"):
        edit_pair(Scene(things=()), Edit.RECOLOUR, seed=0)
    with pytest.raises(ValueError, match="changes two shapes, the scene has 1"):
        edit_pair(Scene(things=(Thing(),)), Edit.BOTH, seed=0)


def test_a_distractor_is_wrong_in_one_kind_of_fact_and_in_words_it_knows() -> None:
    for i in range(60):
        text = caption(sample(rng_of(6, i), Family.CORE, Mix()), rng_of(i)).text
        others = distractors(text, ("id", i), 4)
        assert len(others) == 4
        assert set(others) <= set(KINDS)
        for other in others.values():
            assert other != text
            assert set(other.split()) <= set(vocabulary()) | {"mid-sized"}
        assert distractors(text, ("id", i), 4) == others


def test_a_distractor_is_as_good_a_sentence_and_leaves_relations_alone() -> None:
    mixes = [(Family.RELATION, 200), (Family.PUPPET, 60), (Family.CORE, 60)]
    for family, num in mixes:
        for i in range(num):
            scene = sample(rng_of(12, i), family, Mix())
            text = caption(scene, rng_of(i), unspecified=("size",) if i % 2 else ()).text
            for kind, other in distractors(text, ("id", i), 8).items():
                assert not re.search(r"\ba orange|\ban (?!orange)", other), other
                for relation in ("left of", "above", "over", "in front of"):
                    assert (relation in other) == (relation in text), (kind, text, other)


def test_captions_name_no_speed_of_what_grows_and_shrinks_at_one_rate() -> None:
    for motion in (Motion.GROW, Motion.SHRINK, Motion.ROTATE):
        words = {w for speed in Speed for w in ADVERBS[speed]}
        texts = [
            caption(Scene(things=(Thing(motion=motion, speed=s),)), rng_of(i)).text
            for i in range(10)
            for s in Speed
        ]
        pictures = {
            render(Scene(things=(Thing(motion=motion, speed=s, velocity=SPEED[s]),))).video.tobytes()
            for s in Speed
        }
        assert all(bool(words & set(text.split())) == (len(pictures) > 1) for text in texts)


def test_a_puppets_mask_is_the_share_of_each_pixel_that_it_covers() -> None:
    """Four times finer it is the same, but for the samples that a pixel has; at its seams parts share
    pixels."""
    scene = replace(sample(rng_of(3), Family.PUPPET, Mix()), num_frames=2, stride_ticks=4)
    fine = render(scene, 256).masks.reshape(2, 1, 64, 4, 64, 4).mean((3, 5))
    assert np.abs(render(scene, 64).masks - fine).max() < 0.2


def test_a_paraphrase_is_of_the_same_scene() -> None:
    scene = sample(rng_of(6, 1), Family.CORE, Mix())
    words = [paraphrase({"scene": scene.to_dict()}, ("id", epoch)) for epoch in range(20)]
    assert len(set(words)) > 10
    for word in (scene.things[0].colour.value, scene.things[0].shape.value):
        assert all(word in text for text in words)
    with pytest.raises(ValueError, match="carries no scene"):
        paraphrase({}, ("mine", 0))


def test_another_generator_is_refused() -> None:
    data = Scene(things=(), ground=SOLIDS[0]).to_dict() | {"version": 0}
    with pytest.raises(ValueError, match="written by toybox generator 0, this one is 3"):
        Scene.from_dict(data)


@pytest.mark.parametrize(
    "wrong",
    [{"two_things": -1}, {"two_things": 1.5}, {"camera": 2}, {"camera": math.nan}, {"two_things": math.nan}],
)
def test_a_share_of_the_scenes_lies_in_0_to_1(wrong: dict[str, float]) -> None:
    with pytest.raises(
        ValueError,
        match=r"a mix needs two_things and camera, shares of the scenes, in 0\.\.1, got .* the defaults are",
    ):
        Mix(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"core": math.nan}, {"many": -0.1}, {"core": math.inf}, {f.value: 0 for f in Family}]
)
def test_shares_of_the_families_are_finite_and_one_is_positive(wrong: dict[str, float]) -> None:
    with pytest.raises(
        ValueError, match=r"a mix needs finite shares of the families, .* got core=.*; set core=1"
    ):
        Mix(**wrong)


def test_a_clip_ends_before_its_things_leave_the_canvas() -> None:
    check_length(16)
    check_length(8, 2)
    with pytest.raises(
        ValueError, match=r"end within 15 ticks, where .* got num_frames=40; the usual is num_frames=16"
    ):
        check_length(40)
    with pytest.raises(ValueError, match=r"got num_frames=9 with stride_ticks=2; the usual is"):
        check_length(9, 2)
    with pytest.raises(ValueError, match=r"at least one frame .* got num_frames=0; the usual is"):
        check_length(0)
