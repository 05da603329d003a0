"""A dance on another body: the same bones leave it as it was, other bones are as long as the reference's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vgen.backbones.joints import BLAZE_33, COCO_17, COCO_18, converted, missing
from vgen.conditions.retargeting import ROOT, _body, _named, lengths, retargeted

BONES = (
    ("left_shoulder", "left_elbow"),
    ("left_elbow", "left_wrist"),
    ("right_shoulder", "right_elbow"),
    ("right_elbow", "right_wrist"),
    ("left_hip", "left_knee"),
    ("left_knee", "left_ankle"),
    ("right_hip", "right_knee"),
    ("right_knee", "right_ankle"),
)


def body(arm: float = 0.1, leg: float = 0.15, torso: float = 0.2, num_frames: int = 5) -> Tensor:
    """f 1 17 3: limbs that swing, of one length in all frames."""
    at: dict[str, Tensor] = {}
    t = torch.arange(num_frames, dtype=torch.float32)
    hip = torch.stack([0.5 + 0.01 * t, torch.full_like(t, 0.55)], -1)
    neck = hip + torso * torch.stack([torch.sin(0.05 * t), -torch.cos(0.05 * t)], -1)
    at["nose"] = neck + torch.tensor([0.0, -0.5 * torso])
    for side, sign in (("left", 1.0), ("right", -1.0)):
        for name, dx, dy in (("eye", 0.02, -0.02), ("ear", 0.04, 0.0)):
            at[f"{side}_{name}"] = at["nose"] + torch.tensor([sign * dx, dy])
        at[f"{side}_shoulder"] = neck + torch.tensor([sign * 0.35 * torso, 0.0])
        at[f"{side}_hip"] = hip + torch.tensor([sign * 0.2 * torso, 0.0])
        for chain, start, length in ((("elbow", "wrist"), "shoulder", arm), (("knee", "ankle"), "hip", leg)):
            before = at[f"{side}_{start}"]
            for k, part in enumerate(chain):
                angle = math.pi / 2 + sign * (0.4 * t - 0.3 * k)
                before = before + length * torch.stack([torch.cos(angle), torch.sin(angle)], -1)
                at[f"{side}_{part}"] = before
    places = torch.stack([at[name] for name in COCO_17], 1)
    return torch.cat([places, torch.ones(num_frames, 17, 1)], -1)[:, None]


def bone(pose: Tensor, a: str, b: str) -> Tensor:
    """f 2."""
    places = pose[:, 0, :, :2]
    return places[:, COCO_17.index(b)] - places[:, COCO_17.index(a)]


def test_the_same_bones_leave_a_dance_as_it_was() -> None:
    dance = body()
    torch.testing.assert_close(retargeted(dance, dance), dance)
    torch.testing.assert_close(retargeted(dance, dance[:1]), dance)


def test_bones_are_as_long_as_the_references_and_point_where_they_did() -> None:
    dance, child = body(), body(arm=0.05, leg=0.07, torso=0.12, num_frames=1)
    out = retargeted(dance, child)
    for a, b in BONES:
        before, after, wanted = bone(dance, a, b), bone(out, a, b), bone(child, a, b)
        torch.testing.assert_close(after.norm(dim=-1), wanted.norm(dim=-1).expand(5))
        torch.testing.assert_close(after / after.norm(dim=-1)[:, None], before / before.norm(dim=-1)[:, None])


def test_hips_stay_where_they_are() -> None:
    dance, giant = body(), body(arm=0.2, leg=0.25, torso=0.3)
    out = retargeted(dance, giant)
    middle = [converted(pose, ("mid_hip",))[..., :2] for pose in (dance, out)]
    torch.testing.assert_close(*middle)


def test_what_points_at_the_camera_stays_short() -> None:
    dance, child = body(num_frames=20), body(arm=0.05)
    elbow, wrist = (COCO_17.index(f"left_{part}") for part in ("elbow", "wrist"))
    dance[3, 0, wrist, :2] = dance[3, 0, elbow, :2] + 0.3 * (dance[3, 0, wrist] - dance[3, 0, elbow])[:2]
    after = bone(retargeted(dance, child), "left_elbow", "left_wrist").norm(dim=-1)
    assert float(after[3] / after[4]) == pytest.approx(0.3, abs=1e-3)


def test_missing_joints_stay_missing_and_others_go_on_without_them() -> None:
    dance, child = body(), body(arm=0.05, leg=0.075, torso=0.1)
    dance[1:, 0, COCO_17.index("left_knee")] = torch.nan
    dance[2, 0, COCO_17.index("right_wrist"), 2] = 0
    out = retargeted(dance, child)
    assert torch.equal(missing(out), missing(dance))
    assert torch.equal(out[..., 2].nan_to_num(-1), dance[..., 2].nan_to_num(-1))
    whole = retargeted(body(), child)
    there = ~missing(out)
    torch.testing.assert_close(out[there], whole[there])  # all bones are half as long here


def test_without_hips_the_neck_stays() -> None:
    dance, child = body(), body(arm=0.05, leg=0.07, torso=0.1)
    for name in ("left_hip", "right_hip"):
        dance[:, 0, COCO_17.index(name)] = torch.nan
    necks = [converted(pose, ("neck",))[..., :2] for pose in (dance, retargeted(dance, child))]
    torch.testing.assert_close(*necks)


def test_a_bone_that_the_reference_hides_has_the_median_factor() -> None:
    dance, half = body(), body(arm=0.05, leg=0.075, torso=0.1, num_frames=1)
    for name in ("left_knee", "right_knee", "left_ankle", "right_ankle"):
        half[:, 0, COCO_17.index(name)] = torch.nan
    out = retargeted(dance, half)
    leg = bone(out, "left_hip", "left_knee").norm(dim=-1)
    torch.testing.assert_close(leg, bone(dance, "left_hip", "left_knee").norm(dim=-1) / 2)


@pytest.mark.parametrize("names", [COCO_18, BLAZE_33])
def test_orders_of_joints_may_differ(names: tuple[str, ...]) -> None:
    dance, child = body(), body(arm=0.05, leg=0.07, torso=0.12)
    other = converted(child, names)
    out = retargeted(dance, other)
    own, wanted = (lengths(_body(pose)) for pose in (out, child))
    limbs = ("elbow", "wrist", "knee", "ankle", "hip", "shoulder", "neck")
    assert [own[name] for name in limbs] == pytest.approx([wanted[name] for name in limbs], rel=1e-4)
    assert retargeted(converted(dance, names), child).shape == (5, 1, len(names), 3)


def test_every_joint_hangs_on_the_hips() -> None:
    pose = torch.rand(2, 1, 33, 3)
    named = _named(pose, BLAZE_33)
    assert ROOT in named
    assert len(lengths({name: places[:, 0] for name, places in named.items()})) == 19


def test_nobody_and_no_bone_in_common_are_refused() -> None:
    nobody = torch.full((1, 1, 17, 3), torch.nan)
    with pytest.raises(ValueError, match=r"shows no person.*whole body"):
        retargeted(body(), nobody)
    face = body()
    face[:, :, 5:] = torch.nan
    legs = body(num_frames=1)
    legs[:, :, :11] = torch.nan
    with pytest.raises(ValueError, match="none of the bones"):
        retargeted(face, legs)
