"""Poses as pictures: stick figures in OpenPose's colours, as ControlNets for poses are shown them."""

from __future__ import annotations

import torch
from torch import Tensor

from vgen.backbones.joints import COCO_18, converted, missing

LIMBS = (
    ("neck", "right_shoulder"),
    ("neck", "left_shoulder"),
    ("right_shoulder", "right_elbow"),
    ("right_elbow", "right_wrist"),
    ("left_shoulder", "left_elbow"),
    ("left_elbow", "left_wrist"),
    ("neck", "right_hip"),
    ("right_hip", "right_knee"),
    ("right_knee", "right_ankle"),
    ("neck", "left_hip"),
    ("left_hip", "left_knee"),
    ("left_knee", "left_ankle"),
    ("neck", "nose"),
    ("nose", "right_eye"),
    ("right_eye", "right_ear"),
    ("nose", "left_eye"),
    ("left_eye", "left_ear"),
)
"""In the order in which they are painted, each in the colour of its place."""
COLOURS = (
    (255, 0, 0),
    (255, 85, 0),
    (255, 170, 0),
    (255, 255, 0),
    (170, 255, 0),
    (85, 255, 0),
    (0, 255, 0),
    (0, 255, 85),
    (0, 255, 170),
    (0, 255, 255),
    (0, 170, 255),
    (0, 85, 255),
    (0, 0, 255),
    (85, 0, 255),
    (170, 0, 255),
    (255, 0, 255),
    (255, 0, 170),
    (255, 0, 85),
)
LIMB_SHADE = 0.6
"""Limbs are darker than joints."""
STICK_PX, AT_PX = 4.0, 512
"""Half a limb's width and a joint's radius at a height of 512 px. They scale with the height."""
LEAST_PX = 1.0
AT_ONCE = 16
"""Frames that are painted together: what painting needs beside its pictures does not grow with a clip."""


def refuse_crowd(pose: Tensor) -> None:
    """Raises ValueError where a frame of key points b f p j 3 shows more than one person; pictures of
    skeletons, b f 3 H W uint8, are not counted."""
    if not pose.is_floating_point():
        return
    people = (~missing(pose)).any(-1).sum(-1)  # b f
    if int(people.max()) > 1:
        frame = int((people > 1).nonzero()[0, 1])
        raise ValueError(
            f"pose shows {int(people[0, frame])} people in frame {frame}, and the one person of reference is "
            "to move along it; leave one person a frame in the key points"
        )


def stick_figures(pose: Tensor, height: int, width: int) -> Tensor:
    """``pose`` b f p j 3 (x and y in shares of width and height, confidence) as float b f 3 H W in [0, 1].

    Any order of :data:`vgen.backbones.joints.LAYOUTS` is drawn as OpenPose's eighteen joints. A limb with a
    missing end and a missing joint are left out; people are painted one over the other.
    """
    parts = [_painted_frames(part, height, width) for part in pose.split(AT_ONCE, 1)]
    return torch.cat(parts, 1)


def _painted_frames(pose: Tensor, height: int, width: int) -> Tensor:
    joints = converted(pose.float(), COCO_18)
    there = ~missing(joints)
    places = joints[..., :2].nan_to_num() * joints.new_tensor([width, height])
    canvas = pose.new_zeros(*pose.shape[:2], 3, height, width, dtype=torch.float32)
    for person in range(pose.shape[2]):
        canvas = _figure(canvas, places[:, :, person], there[:, :, person])
    return canvas


def _figure(canvas: Tensor, places: Tensor, there: Tensor) -> Tensor:
    """One person more: ``places`` b f 18 2 in pixels, ``there`` b f 18."""
    height, width = canvas.shape[-2:]
    radius = max(STICK_PX * height / AT_PX, LEAST_PX)
    at = _pixels(height, width, canvas.device)
    for (a, b), colour in zip(LIMBS, COLOURS[: len(LIMBS)], strict=True):
        i, j = COCO_18.index(a), COCO_18.index(b)
        inside = _limb(at, places[:, :, i], places[:, :, j], radius)
        seen = (there[:, :, i] & there[:, :, j])[..., None, None]
        canvas = _painted(canvas, inside & seen, colour, LIMB_SHADE)
    for i, colour in enumerate(COLOURS):
        away = (at - places[:, :, i, None, None]).square().sum(-1)
        canvas = _painted(canvas, (away <= radius**2) & there[:, :, i, None, None], colour, 1.0)
    return canvas


def _pixels(height: int, width: int, device: torch.device) -> Tensor:
    """h w 2: x and y of every pixel, as OpenCV counts them."""
    y, x = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    return torch.stack([x, y], -1).float()


def _limb(at: Tensor, a: Tensor, b: Tensor, radius: float) -> Tensor:
    """b f h w: pixels inside the ellipse from ``a`` to ``b`` (b f 2)."""
    half = ((b - a) / 2)[:, :, None, None]
    away = at - ((a + b) / 2)[:, :, None, None]
    length = half.norm(dim=-1).clamp_min(1e-6)
    along = (away * half).sum(-1) / length
    across = (away[..., 0] * half[..., 1] - away[..., 1] * half[..., 0]) / length
    return (along / length.clamp_min(radius / 4)).square() + (across / radius).square() <= 1


def _painted(canvas: Tensor, where: Tensor, colour: tuple[int, int, int], shade: float) -> Tensor:
    paint = canvas.new_tensor(colour)[:, None, None] * shade / 255
    return torch.where(where[:, :, None], paint, canvas)
