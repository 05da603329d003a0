"""``vgen preview``: what a condition makes of a video, frame beside condition, as a GIF."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from vgen.app.given_fields import GivenField
from vgen.app.refusals import nearest
from vgen.conditions.pictures import picture_of
from vgen.data.clip_files import enlarged, write_gif
from vgen.data.decode import Cut
from vgen.data.one_clip import read_clip
from vgen.spec import spec


@spec
class Preview:
    """``condition`` is looked for in ``video``, or, with ``file``, is what lies there. ``by`` names the
    detector where there are several."""

    condition: str = ""
    video: str = ""
    file: str = ""
    by: str = ""
    out: str = ""
    num_frames: int = 16
    fps: float = 8.0
    size_px: int = 256

    def __post_init__(self) -> None:
        if not (self.condition and self.video):
            raise ValueError(
                "a preview needs a condition and a video, as condition=pose video=dance.mp4, got "
                f"condition={self.condition or 'nothing'} and video={self.video or 'nothing'}"
            )

    def path(self) -> Path:
        named = self.out or f"outputs/preview-{self.condition}-{Path(self.video).stem}.gif"
        path = Path(named).expanduser()
        if path.exists():
            raise ValueError(f"{path} exists and is never overwritten; remove it or choose another out=")
        return path

    def given(self) -> GivenField:
        if self.file:
            return GivenField(name=self.condition, file=self.file)
        return GivenField(name=self.condition, file=self.video, found=True, by=self.by)


def main() -> None:
    path = preview(_told(sys.argv[1:]))
    Console(soft_wrap=True).print(f"frames beside the condition: {path}")


def preview(wish: Preview) -> Path:
    """Write the GIF; returns its path."""
    path = wish.path()
    cut = Cut(fps=wish.fps, num_frames=wish.num_frames, size_px=wish.size_px)
    frames = read_clip(wish.video, cut)
    side = enlarged(beside(frames, wish.given(), cut), 256)
    return write_gif(path, side, wish.fps)


def beside(frames: np.ndarray, given: GivenField, cut: Cut) -> np.ndarray:
    """``frames`` uint8 f h w 3 with what a ControlNet is shown of them to the right, uint8 f h 2w 3."""
    shown = picture_of(given.name, given.read(cut)[given.name], *frames.shape[1:3])[0]
    pictures = (shown.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    at = np.minimum(np.arange(len(frames)), len(pictures) - 1)  # what joins frames has one less
    return np.concatenate([frames, pictures[at]], 2)


def _told(arguments: list[str]) -> Preview:
    kinds = {"num_frames": int, "fps": float, "size_px": int}
    known = [one.name for one in fields(Preview)]
    out: dict[str, Any] = {}
    for argument in arguments:
        key, given, value = argument.partition("=")
        if not given or key not in known:
            raise ValueError(
                f"{key} is no key of vgen preview{nearest(key, known) or ';'} its keys are {', '.join(known)}"
            )
        try:
            out[key] = kinds.get(key, str)(value)
        except ValueError as error:
            raise ValueError(f"{key} must be a number, got {value}") from error
    return Preview(**out)
