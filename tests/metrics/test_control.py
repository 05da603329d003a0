"""O3: what following a control means, for masks and for joints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vgen.metrics.control import best_lag, boundary_f, iou, mask_fidelity
from vgen.metrics.metric import Numbers
from vgen.metrics.pose import pose_fidelity
from vgen.metrics.selftest import CONTROLS, blurred, jpeg, noisy
from vgen.metrics.suite import Suite, tasks
from vgen.toybox.oracle import read
from vgen.toybox.oracle.pose import read_pose
from vgen.toybox.renderer import Rendered, render
from vgen.toybox.sampling import Family, Mix, rng_of, sample
from vgen.toybox.scenes import Colour, Motion, Scene, Shape

SUITE = Suite(iid=30, pair=0, triple=0, extrapolation=0, paraphrase=0, num_frames=8, stride_ticks=2)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Everything moves."""
    return [t.scene for t in tasks(SUITE) if all(x.motion is not Motion.STATIC for x in t.scene.things)][:10]


@pytest.fixture(scope="module")
def truths(scenes: list[Scene]) -> list[np.ndarray]:
    return [mask(scene) for scene in scenes]


def mask(scene: Scene) -> np.ndarray:
    return render(scene).masks.max(1) > 0.5


def scored(videos: list[np.ndarray], truths: list[np.ndarray]) -> dict[str, float]:
    return mean(
        [
            mask_fidelity(read(v).bodies, w, truths[i - 1])
            for i, (v, w) in enumerate(zip(videos, truths, strict=True))
        ]
    )


def mean(rows: list[Numbers]) -> dict[str, float]:
    return {k: float(np.mean(v)) for k in rows[0] if (v := [row[k] for row in rows if row[k] is not None])}


def test_the_truth_follows_its_control_in_any_colour(scenes: list[Scene], truths: list[np.ndarray]) -> None:
    colours = list(Colour)
    turned = [
        replace(s, things=tuple(replace(t, colour=colours[colours.index(t.colour) - 3]) for t in s.things))
        for s in scenes
    ]
    for videos in ([render(s).video for s in scenes], [render(s).video for s in turned]):
        numbers = scored(videos, truths)
        assert numbers["j"] > 0.93
        assert numbers["f1"] > 0.95
        assert numbers["on_time"] == 1
        assert numbers["ctrl_gain"] > 0.75


@pytest.mark.parametrize(("late", "least", "most"), [(1, 0.5, 0.85), (3, 0.1, 0.6)])
def test_being_late_is_seen(
    scenes: list[Scene], truths: list[np.ndarray], late: int, least: float, most: float
) -> None:
    videos = [np.concatenate([v[:1]] * late + [v[:-late]]) for v in (render(s).video for s in scenes)]
    numbers = scored(videos, truths)
    assert least < numbers["j"] < most
    assert numbers["lag"] > 0.75 * late
    assert numbers["on_time"] <= 0.2


def test_two_pixels_aside_costs_the_narrow_boundary_and_not_the_wide_one(
    scenes: list[Scene], truths: list[np.ndarray]
) -> None:
    numbers = scored([np.roll(render(s).video, 2, 2) for s in scenes], truths)
    assert numbers["f1"] < 0.7 < 0.9 < numbers["f2"]


def test_another_shape_on_the_right_path_is_near_and_not_right(
    scenes: list[Scene], truths: list[np.ndarray]
) -> None:
    shapes = list(Shape)
    turned = [
        replace(s, things=tuple(replace(t, shape=shapes[shapes.index(t.shape) - 3]) for t in s.things))
        for s in scenes
    ]
    numbers = scored([render(s).video for s in turned], truths)
    assert 0.5 < numbers["j"] < 0.85
    assert numbers["f1"] < 0.85
    assert numbers["on_time"] >= 0.7


@pytest.mark.parametrize(("trick", "most"), [("frozen", 0.5), ("shuffled", 0.6), ("blank", 0.0)])
def test_tricks_stay_far_below_the_truth(
    scenes: list[Scene], truths: list[np.ndarray], trick: str, most: float
) -> None:
    rng = np.random.default_rng(0)
    numbers = scored([np.ascontiguousarray(CONTROLS[trick](render(s).video, rng)) for s in scenes], truths)
    assert numbers["ctrl_gain"] <= most
    assert numbers["on_time"] <= 0.5


_CONTROL_TABLE = {  # least and most of J, F at 1 px, F at 2 px
    "recoloured": ((0.88, 1), (0.97, 1), (0.98, 1)),  # the table: .883, .997, 1
    "2 px": ((0.48, 0.6), (0.3, 0.42), (0.7, 0.82)),  # .544, .350, .760: 2 px aside and 2 px down
    "lag 1": ((0.72, 0.86), (0.76, 0.92), (0.95, 1)),  # .741, .776, .974
    "lag 3": ((0.46, 0.66), (0.4, 0.58), (0.55, 0.82)),  # .490, .439, .588: things are slower here
    "wrong shape": (
        (0.45, 0.75),
        (0.55, 0.82),
        (0.78, 0.94),
    ),  # .744, .814, .939: among compacter shapes than a star or a ring
    "unrelated": ((0, 0.15), (0, 0.15), (0.05, 0.22)),  # .10, .13, .21
}


@pytest.mark.parametrize("control", list(_CONTROL_TABLE))
def test_the_table_of_controls(scenes: list[Scene], control: str) -> None:
    every_tick = [replace(s, num_frames=16, stride_ticks=1) for s in scenes]
    wanted = [mask(s) for s in every_tick]
    colours, shapes = list(Colour), list(Shape)
    made = []
    for i, scene in enumerate(every_tick):
        video = render(scene).video
        match control:
            case "recoloured":
                things = tuple(replace(t, colour=colours[colours.index(t.colour) - 3]) for t in scene.things)
                made.append(render(replace(scene, things=things)).video)
            case "wrong shape":
                things = tuple(replace(t, shape=shapes[shapes.index(t.shape) - 3]) for t in scene.things)
                made.append(render(replace(scene, things=things)).video)
            case "2 px":
                made.append(np.roll(video, (2, 2), (1, 2)))
            case "unrelated":
                made.append(render(every_tick[i - 2]).video)
            case _:
                late = int(control[-1])
                made.append(np.concatenate([video[:1]] * late + [video[:-late]]))
    numbers = scored(made, wanted)
    for cell, (least, most) in zip(("j", "f1", "f2"), _CONTROL_TABLE[control], strict=True):
        assert least <= numbers[cell] <= most, (cell, numbers)


def test_a_model_that_ignores_its_control_has_no_gain(scenes: list[Scene], truths: list[np.ndarray]) -> None:
    videos = [render(scenes[i - 2]).video for i in range(len(scenes))]
    numbers = scored(videos, truths)
    assert numbers["j"] < 0.25
    assert abs(numbers["ctrl_gain"]) < 0.12


def test_formulae() -> None:
    a, b = np.zeros((1, 8, 8), bool), np.zeros((1, 8, 8), bool)
    a[0, 2:6, 2:6], b[0, 2:6, 3:7] = True, True
    assert iou(a, b) == pytest.approx(12 / 20)
    assert boundary_f(a, b, 1) == 1
    assert mask_fidelity(a, b, None, ceiling=0.8)["j_norm"] == pytest.approx(0.6 / 0.8)
    nothing = np.zeros_like(a)
    assert iou(nothing, nothing) == boundary_f(nothing, nothing, 1) == 1
    assert iou(a, nothing) == boundary_f(a, nothing, 2) == 0


def test_what_stands_still_has_no_lag() -> None:
    still = np.zeros((6, 8, 8), bool)
    still[:, 2:5, 2:5] = True
    assert best_lag(still, still) == 0


def test_masks_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="bool masks f h w of one shape"):
        mask_fidelity(np.zeros((2, 4, 4), bool), np.zeros((2, 8, 8), bool))


@pytest.fixture(scope="module")
def figures() -> list[Rendered]:
    drawn = [
        replace(sample(rng_of(77, i), Family.PUPPET, Mix()), num_frames=8, stride_ticks=2) for i in range(8)
    ]
    return [render(s) for s in drawn]


def posed(videos: list[np.ndarray], figures: list[Rendered]) -> dict[str, float]:
    return mean(
        [pose_fidelity(read_pose(v).joints, r.keypoints[0]) for v, r in zip(videos, figures, strict=True)]
    )


@pytest.mark.parametrize(
    ("damage", "pck", "mpjpe"),
    [
        ("truth", 0.99, 0.012),
        ("blur", 0.97, 0.02),
        ("codec", 0.98, 0.015),
        ("noise", 0.99, 0.012),
        ("q30", 0.9, 0.04),
    ],
)
def test_poses_are_read_through_damage(
    figures: list[Rendered], damage: str, pck: float, mpjpe: float
) -> None:
    rng = np.random.default_rng(0)
    codec = lambda v: noisy(blurred(v, 0.7), rng, 0.02)  # noqa: E731
    alter = {
        "truth": lambda v: v,
        "blur": blurred,
        "codec": codec,
        "noise": lambda v: noisy(v, rng),
        "q30": jpeg,
    }
    numbers = posed([alter[damage](r.video) for r in figures], figures)
    assert numbers["pck"] >= pck
    assert numbers["mpjpe"] <= mpjpe


def test_frozen_figures_do_not_move_their_limbs(figures: list[Rendered]) -> None:
    frozen = posed([np.repeat(r.video[:1], 8, 0) for r in figures], figures)
    truth = posed([r.video for r in figures], figures)
    assert frozen["pck_moving"] < 0.6 < 0.98 < truth["pck_moving"]


def test_no_figure_has_no_joints(figures: list[Rendered]) -> None:
    blank = np.full((8, 64, 64, 3), 12, np.uint8)
    assert posed([blank] * len(figures), figures) == pytest.approx(
        {"pck": 0, "pck_moving": 0, "mpjpe": 0.5, "pose_found": 0}
    )
    shapes = render(sample(rng_of(3), Family.CORE, Mix(two_things=1.0))).video
    assert not np.isfinite(read_pose(shapes).joints).any()


def test_clothes_and_action_are_read(figures: list[Rendered]) -> None:
    for i in range(8):
        scene = sample(rng_of(77, i), Family.PUPPET, Mix())
        found = read_pose(figures[i].video)
        assert found.clothes == (scene.things[0].colour, scene.things[0].second)
        assert found.action is scene.things[0].action


def test_floats_and_other_poses_are_refused() -> None:
    with pytest.raises(ValueError, match="pose reader reads uint8"):
        read_pose(np.zeros((2, 8, 8, 3), np.float32))
    with pytest.raises(ValueError, match="poses are f 17 2 of one length"):
        pose_fidelity(np.zeros((2, 17, 2)), np.zeros((3, 17, 2)))
