"""Camera moves made by rule from any clip: a window that slides, grows, shrinks or turns over its frames.

MotionLoRA learns from such clips (Guo et al. 2023, section 4.3). The eight moves are those of its published
files. A move is the camera's: under ``pan_left`` what is seen goes to the right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from vgen.data.sample import Sample
from vgen.spec import Choice, spec

_FINER = 2  # how many times finer than the result the window is read


class Move(Choice):
    PAN_LEFT = "pan_left"
    PAN_RIGHT = "pan_right"
    TILT_UP = "tilt_up"
    TILT_DOWN = "tilt_down"
    ZOOM_IN = "zoom_in"
    ZOOM_OUT = "zoom_out"
    ROLL_CLOCKWISE = "roll_clockwise"
    ROLL_ANTICLOCKWISE = "roll_anticlockwise"


PATHS = {Move.PAN_LEFT: (-1, 0), Move.PAN_RIGHT: (1, 0), Move.TILT_UP: (0, -1), Move.TILT_DOWN: (0, 1)}
TURNS = {Move.ROLL_CLOCKWISE: 1, Move.ROLL_ANTICLOCKWISE: -1}


@dataclass(frozen=True, slots=True)
class View:
    """What one frame shows: centre and side of a square in picture widths, turned by ``angle`` radians
    clockwise."""

    x: float
    y: float
    side: float
    angle: float = 0.0


@spec
class CameraMove:
    """``move`` null leaves clips as they are. ``share`` is the side of the smallest window in picture widths,
    ``degrees`` how far a roll turns from the first frame to the last."""

    move: Move | None = None
    share: float = 0.8
    degrees: float = 30.0

    def __post_init__(self) -> None:
        if not 0.1 <= self.share < 1:
            raise ValueError(f"camera.share must lie in 0.1..1, without 1, got {self.share}")
        if not 0 < self.degrees <= 90:
            raise ValueError(f"camera.degrees must lie in 0..90, without 0, got {self.degrees}")

    def reading_px(self, size_px: int) -> int:
        """The size to read a clip at, so that the smallest window has ``size_px``."""
        return size_px if self.move is None else math.ceil(size_px / self._smallest())

    def _smallest(self) -> float:
        if self.move in TURNS:
            half = math.radians(self.degrees / 2)
            return 1 / (math.cos(half) + math.sin(half))  # the largest square that stays inside as it turns
        return self.share

    def views(self, num_frames: int) -> list[View]:
        """From one end of the move to the other, evenly; one frame has its middle."""
        times = [0.5] if num_frames == 1 else [i / (num_frames - 1) for i in range(num_frames)]
        return [self._view(time) for time in times]

    def _view(self, time: float) -> View:
        smallest, room = self._smallest(), 1 - self._smallest()
        if self.move in PATHS:
            along_x, along_y = PATHS[self.move]
            return View(0.5 + along_x * room * (time - 0.5), 0.5 + along_y * room * (time - 0.5), smallest)
        if self.move in TURNS:
            angle = TURNS[self.move] * math.radians(self.degrees) * (time - 0.5)
            return View(0.5, 0.5, smallest, angle)
        passed = time if self.move is Move.ZOOM_IN else 1 - time
        return View(0.5, 0.5, smallest**passed)  # the same factor from every frame to the next

    def moved(self, sample: Sample, size_px: int) -> Sample:
        """The sample as the camera sees it, ``size_px`` square; itself where there is no move.

        What its metadata says of the scene does not hold any more and is left out. Raises ValueError where it
        has fields beside the video, which would stay where they were.
        """
        if self.move is None:
            return sample
        if sample.fields:
            raise ValueError(
                f"camera.move={self.move.value} moves the video alone, and the clips have "
                f"{', '.join(sorted(sample.fields))} too; prepare them without one of the two"
            )
        assert sample.video is not None  # it was just made
        views = self.views(len(sample.video))
        seen = [_seen(frame, view, size_px) for frame, view in zip(sample.video, views, strict=True)]
        facts = {name: value for name, value in sample.metadata.items() if name != "scene"}
        return replace(sample, video=np.stack(seen), metadata={**facts, "camera": self.move.value})


def _seen(frame: np.ndarray, view: View, size_px: int) -> np.ndarray:
    """uint8 h h c to size_px size_px c."""
    fine, width = size_px * _FINER, len(frame)
    step = view.side * width / fine
    cos, sin = step * math.cos(view.angle), step * math.sin(view.angle)
    # from a pixel of the result to one of the frame: turned about the middle of both
    x = view.x * width - (cos - sin) * fine / 2
    y = view.y * width - (sin + cos) * fine / 2
    picture = Image.fromarray(frame).transform(
        (fine, fine), Image.Transform.AFFINE, (cos, -sin, x, sin, cos, y), Image.Resampling.BICUBIC
    )
    return np.asarray(picture.resize((size_px, size_px), Image.Resampling.BOX))
