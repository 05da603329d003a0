"""Fields as control pictures: what they show, where they are, and what is refused."""

from __future__ import annotations

import pytest
import torch

from vgen.backbones.joints import BLAZE_33, BODY_25, COCO_17, COCO_18, LAYOUTS, converted, missing
from vgen.conditions.figures import COLOURS, stick_figures
from vgen.conditions.pictures import nearness, picture_of


def person(names: tuple[str, ...] = COCO_18, seed: int = 0) -> torch.Tensor:
    """1 1 1 j 3: a body whose joints of one name have one place, in any order of joints."""
    draw = torch.Generator().manual_seed(seed)
    every = list(dict.fromkeys((*COCO_17, *BODY_25, *BLAZE_33)))
    places = {name: torch.rand(2, generator=draw) * 0.8 + 0.1 for name in every}
    for side in ("left", "right"):
        places[f"{side}_big_toe"] = places[f"{side}_foot_index"]
    places["neck"] = (places["left_shoulder"] + places["right_shoulder"]) / 2
    places["mid_hip"] = (places["left_hip"] + places["right_hip"]) / 2
    joints = [torch.cat([places[name], torch.ones(1)]) for name in names]
    return torch.stack(joints)[None, None, None]


@pytest.mark.parametrize("own", list(LAYOUTS.values()), ids=map(str, LAYOUTS))
@pytest.mark.parametrize("to", [COCO_17, COCO_18, BODY_25], ids=["17", "18", "25"])
def test_joints_keep_their_names_between_orders(own: tuple[str, ...], to: tuple[str, ...]) -> None:
    """What both orders have, or have half-way between two, is at its place; the rest is missing."""
    found, wanted = converted(person(own), to)[0, 0, 0], person(to)[0, 0, 0]
    there = ~missing(found)
    torch.testing.assert_close(found[there], wanted[there])
    feet = [name for name, seen in zip(to, there, strict=True) if not seen]
    assert all("toe" in name or "heel" in name for name in feet)
    if own is BLAZE_33:
        assert feet == [name for name in to if "small_toe" in name]


def test_a_neck_needs_both_shoulders() -> None:
    pose = person(COCO_17)
    pose[..., COCO_17.index("left_shoulder"), 2] = 0
    assert missing(converted(pose, COCO_18))[0, 0, 0].nonzero().flatten().tolist() == [
        COCO_18.index("neck"),
        COCO_18.index("left_shoulder"),
    ]


def test_a_figure_is_openposes() -> None:
    """Against OpenCV's polygons and circles, painted as ControlNet's annotator paints them."""
    cv2 = pytest.importorskip("cv2")
    import math

    import numpy as np

    from vgen.conditions.figures import LIMBS

    pose = person(seed=3)
    canvas = np.zeros((512, 512, 3), np.uint8)
    at = {name: pose[0, 0, 0, i, :2].numpy() * 512 for i, name in enumerate(COCO_18)}
    for (a, b), colour in zip(LIMBS, COLOURS, strict=False):
        middle, apart = (at[a] + at[b]) / 2, at[b] - at[a]
        size = (int(np.hypot(*apart) / 2), 4)
        turn = int(math.degrees(math.atan2(apart[1], apart[0])))
        shape = cv2.ellipse2Poly(tuple(int(v) for v in middle), size, turn, 0, 360, 1)
        cv2.fillConvexPoly(canvas, shape, [int(c * 0.6) for c in colour])
    for name, colour in zip(COCO_18, COLOURS, strict=True):
        cv2.circle(canvas, tuple(int(v) for v in at[name]), 4, colour, thickness=-1)
    ours = (stick_figures(pose, 512, 512)[0, 0].permute(1, 2, 0) * 255).round().byte().numpy()
    painted = (canvas > 0).any(-1) | (ours > 0).any(-1)
    differ = (np.abs(canvas.astype(int) - ours).max(-1) > 2).sum() / painted.sum()
    assert differ < 0.25, "integer corners and angles move outlines by up to a pixel, no more"


def test_missing_joints_and_people_are_left_out() -> None:
    pose = person()
    alone = stick_figures(pose, 64, 64)
    gone = torch.full_like(pose, torch.nan)
    assert torch.equal(stick_figures(torch.cat([pose, gone], 2), 64, 64), alone)
    assert not stick_figures(gone, 64, 64).any()
    both = stick_figures(torch.cat([pose, person(seed=1)], 2), 64, 64)
    assert (both > 0).sum() > (alone > 0).sum()


def test_depth_is_normalised_over_the_clip_in_any_unit() -> None:
    depth = torch.rand(2, 3, 8, 8) + 0.5
    near = nearness(depth)
    assert near.amax((1, 2, 3)).tolist() == [1, 1]
    assert near.amin((1, 2, 3)).tolist() == [0, 0]
    torch.testing.assert_close(nearness(depth * 1000), near)
    assert not torch.allclose(nearness(depth[:, :1]), near[:, :1]), "a frame alone has ends of its own"
    assert not nearness(torch.ones(1, 2, 4, 4)).any(), "a flat clip has no near side"


def test_depth_below_0_is_refused() -> None:
    with pytest.raises(ValueError, match="depth must be finite and 0 or more"):
        picture_of("depth", torch.full((1, 2, 4, 4), -1.0), 4, 4)


def test_bytes_are_shares_and_pictures_stay() -> None:
    edges = torch.randint(0, 2, (1, 2, 4, 4), dtype=torch.uint8) * 255
    assert torch.equal(picture_of("edges", edges, 4, 4)[:, :, 1], edges / 255)
    ready = torch.randint(0, 256, (1, 2, 3, 4, 4), dtype=torch.uint8)
    assert torch.equal(picture_of("pose", ready, 4, 4), ready / 255)


def test_still_things_are_white_on_the_wheel() -> None:
    flow = torch.zeros(1, 1, 2, 2, 2)
    flow[0, 0, :, 0, 0] = torch.tensor([3.0, 0.0])
    shown = picture_of("flow", flow, 2, 2)[0, 0]
    torch.testing.assert_close(shown[:, 1, 1], torch.ones(3))
    torch.testing.assert_close(shown[:, 0, 0], torch.tensor([1.0, 0.25, 0.25]))


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="control pictures must be"):
        picture_of("control", torch.zeros(1, 2, 4, 4, 5), 4, 4)
