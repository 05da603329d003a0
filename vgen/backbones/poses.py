"""Poses by a trained net: BlazePose (Bazarevsky et al. 2020), which finds one person a frame and 33 joints.

A detector says where the person is and how it is turned; the square around it, turned upright, goes to a
second net, which says the joints.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from vgen.backbones import detector_files
from vgen.backbones.detector_files import POSE_DETECTION, POSE_LANDMARKS
from vgen.backbones.joints import BLAZE_33, BODY_25, COCO_18, converted

DETECTION_PX, LANDMARK_PX = 224, 256
GRIDS = ((28, 2), (14, 2), (7, 6))
"""Cells a side and anchors a cell, of the detector's 2254."""
ENLARGED = 1.25
"""The square around a person is larger than the circle that the detector says."""
LEAST_SCORE, LEAST_PRESENCE = 0.5, 0.5
LEAST_VISIBLE = 0.3
"""Joints that are surely hidden are missing."""
ORDERS = {"coco_18": COCO_18, "body_25": BODY_25}


@dataclass(frozen=True, slots=True)
class Square:
    """A turned square in shares of the picture: its centre, its side, and its turn in radians."""

    x: float
    y: float
    side: float
    turn: float


class BlazePose:
    """Poses of videos; frames without a person are missing."""

    identity = f"blaze_pose {POSE_DETECTION.sha256[:8]} {POSE_LANDMARKS.sha256[:8]}"

    def __init__(self, detection: Path, landmarks: Path, order: Sequence[str] = COCO_18) -> None:
        self.detection, self.landmarks, self.order = _net(detection), _net(landmarks), order

    def see(self, video: np.ndarray) -> np.ndarray:
        """uint8 f h w 3 of square frames to float32 f 1 j 3."""
        found = torch.from_numpy(np.stack([self.joints(frame) for frame in video]))
        return converted(found[:, None], self.order).numpy()

    def joints(self, frame: np.ndarray) -> np.ndarray:
        """float32 33 3 of a square frame uint8 h w 3; nan where there is no person."""
        picture = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float() / 255
        square = self.person(picture)
        if square is None:
            return np.full((len(BLAZE_33), 3), np.nan, np.float32)
        upright = cut_out(picture, square, LANDMARK_PX)
        values, presence = _asked(self.landmarks, upright, (195, 1))
        if presence.item() < LEAST_PRESENCE:
            return np.full((len(BLAZE_33), 3), np.nan, np.float32)
        rows = values.reshape(-1, 5)[: len(BLAZE_33)]
        sure = 1 / (1 + np.exp(-rows[:, 3]))
        sure[sure < LEAST_VISIBLE] = 0
        places = put_back(rows[:, :2] / LANDMARK_PX, square)
        return np.concatenate([places, sure[:, None]], 1).astype(np.float32)

    def person(self, picture: torch.Tensor) -> Square | None:
        """The surest person of a picture 1 3 h w; None where there is none."""
        small = F.interpolate(picture, (DETECTION_PX, DETECTION_PX), mode="bilinear", antialias=True)
        boxes, scores = _asked(self.detection, small * 2 - 1, (2254 * 12, 2254))
        best = int(scores.argmax())
        if scores.reshape(-1)[best] < math.log(LEAST_SCORE / (1 - LEAST_SCORE)):
            return None
        points = boxes.reshape(-1, 12)[best, 4:8].reshape(2, 2) / DETECTION_PX + anchors()[best]
        return square_of(points)


def square_of(points: np.ndarray) -> Square:
    """Around ``points`` 2 2: the middle of the hips, and what lies straight above it on the circle."""
    (x, y), (x1, y1) = points.tolist()
    turn = math.pi / 2 - math.atan2(y - y1, x1 - x)
    return Square(x, y, 2 * math.hypot(x1 - x, y1 - y) * ENLARGED, turn)


def cut_out(picture: torch.Tensor, square: Square, size_px: int) -> torch.Tensor:
    """A turned square of a picture 1 3 h w, upright, 1 3 size size; black beyond the border."""
    c, s = math.cos(square.turn) * square.side, math.sin(square.turn) * square.side
    to_picture = torch.tensor([[[c, -s, 2 * square.x - 1], [s, c, 2 * square.y - 1]]], dtype=torch.float32)
    grid = F.affine_grid(to_picture, [1, 3, size_px, size_px], align_corners=False)
    return F.grid_sample(picture, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def put_back(places: np.ndarray, square: Square) -> np.ndarray:
    """Places j 2 in shares of the square, as shares of the picture."""
    c, s = math.cos(square.turn), math.sin(square.turn)
    turned = (places - 0.5) @ np.array([[c, s], [-s, c]]) * square.side
    return turned + [square.x, square.y]


@cache
def anchors() -> np.ndarray:
    """2254 2: the middles of the detector's cells, in shares of its picture."""
    out = []
    for side, num in GRIDS:
        axis = (np.arange(side) + 0.5) / side
        y, x = np.meshgrid(axis, axis, indexing="ij")
        out.append(np.stack([x, y], -1).reshape(-1, 1, 2).repeat(num, 1).reshape(-1, 2))
    return np.concatenate(out)


RUNTIME = "ai_edge_litert"
"""The package that runs the nets."""


@cache
def installed(order: str = "coco_18") -> BlazePose:
    """With the installed nets. Raises ValueError where they, or what runs them, are not there."""
    detection, landmarks = (detector_files.installed(file) for file in (POSE_DETECTION, POSE_LANDMARKS))
    if importlib.util.find_spec(RUNTIME) is None:
        raise ValueError(
            f"{detection.name} is run by ai-edge-litert, which is not installed; "
            "pip install 'vgen[detectors]'"
        )
    return BlazePose(detection, landmarks, ORDERS[order])


def _net(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    net = Interpreter(str(path), num_threads=1)
    net.allocate_tensors()
    return net


def _asked(net: Any, picture: torch.Tensor, sizes: tuple[int, ...]) -> list[np.ndarray]:
    """The outputs of these many numbers for a picture 1 3 h w."""
    net.set_tensor(net.get_input_details()[0]["index"], picture.permute(0, 2, 3, 1).contiguous().numpy())
    net.invoke()
    outputs = [net.get_tensor(one["index"]) for one in net.get_output_details()]
    return [next(out for out in outputs if out.size == size) for size in sizes]
