"""Joints of a body by name, in the orders that detectors and models use, and from one order to another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

COCO_17 = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
COCO_18 = (
    "nose",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
)
"""OpenPose's, with a neck between the shoulders."""
BODY_25 = (
    *COCO_18[:8],
    "mid_hip",
    *COCO_18[8:],
    "left_big_toe",
    "left_small_toe",
    "left_heel",
    "right_big_toe",
    "right_small_toe",
    "right_heel",
)
BLAZE_33 = (
    "nose",
    "left_eye_inner",
    "left_eye",
    "left_eye_outer",
    "right_eye_inner",
    "right_eye",
    "right_eye_outer",
    "left_ear",
    "right_ear",
    "mouth_left",
    "mouth_right",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_pinky",
    "right_pinky",
    "left_index",
    "right_index",
    "left_thumb",
    "right_thumb",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
    "left_heel",
    "right_heel",
    "left_foot_index",
    "right_foot_index",
)
"""BlazePose's (Bazarevsky et al. 2020). Its foot index is the big toe; it has no small toe."""
LAYOUTS = {len(names): names for names in (COCO_17, COCO_18, BODY_25, BLAZE_33)}
"""Orders by their number of joints."""
BETWEEN = {"neck": ("left_shoulder", "right_shoulder"), "mid_hip": ("left_hip", "right_hip")}
"""Joints that lie half-way between two others."""
ALSO = {"left_big_toe": "left_foot_index", "right_big_toe": "right_foot_index"}
"""Joints that another order calls otherwise."""


def converted(pose: Tensor, to: Sequence[str]) -> Tensor:
    """A pose ``... j 3`` (x, y, confidence; nan or confidence 0: missing) in the order ``to``.

    A joint that the pose's order lacks is missing, but for those half-way between two that it has.
    """
    own = LAYOUTS[pose.shape[-2]]
    parts = [_joint(pose, own, name) for name in to]
    return torch.stack(parts, -2)


def missing(pose: Tensor) -> Tensor:
    """Which joints are not there, ``... j``."""
    return pose[..., :2].isnan().any(-1) | ~(pose[..., 2] > 0)


def _joint(pose: Tensor, own: Sequence[str], name: str) -> Tensor:
    """``... 3`` of one joint."""
    found = name if name in own else ALSO.get(name, name)
    if found in own:
        return pose[..., own.index(found), :]
    if name not in BETWEEN:
        return torch.full_like(pose[..., 0, :], torch.nan)
    ends = torch.stack([_joint(pose, own, end) for end in BETWEEN[name]], -2)
    middle = torch.cat([ends[..., :2].mean(-2), ends[..., 2].amin(-1, keepdim=True)], -1)
    return middle.masked_fill(missing(ends).any(-1)[..., None], torch.nan)
