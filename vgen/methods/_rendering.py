"""What methods share whose checkpoint shows a clip by itself, without denoising: it gives out pictures that
people edit, and takes them back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from torch import Tensor

from vgen.methods._video_model import VideoModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a rendering is of: ``num_frames`` frames of ``height_px`` by ``width_px``, as in the training.
    ``source`` uint8 f h w 3 is the clip, ``mask`` uint8 f h w says which group each pixel belongs to, and
    ``canonical`` are edited pictures uint8 h w 3; each where it was given."""

    num_frames: int
    height_px: int
    width_px: int
    source: np.ndarray | None = None
    mask: np.ndarray | None = None
    canonical: Sequence[np.ndarray] = ()

    @property
    def size(self) -> tuple[int, int]:
        return self.height_px, self.width_px


@dataclass(frozen=True, slots=True)
class Rendered:
    """``video`` and ``before``, the same without the edit, are uint8 f h w 3; ``pictures`` uint8 h w 3 (or
    4), by the names of their files."""

    video: np.ndarray
    before: np.ndarray
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict)


def as_bytes(pixels: Tensor) -> np.ndarray:
    """Pixels ... 3 h w in [0, 1] to uint8 ... h w 3, rounded."""
    return (255 * pixels).round().byte().movedim(-3, -1).cpu().numpy()


class Rendering(ABC):
    """A recipe whose checkpoint renders. ``of_source`` where it renders upon a clip that a person gives;
    ``of_canonical`` where it takes edited canonical pictures."""

    __slots__ = ()
    of_source: ClassVar[bool] = False
    of_canonical: ClassVar[bool] = False

    def groups(self) -> int:
        """Groups of pixels that masks tell apart; 1 needs no masks."""
        return 1

    @abstractmethod
    def render(self, video_model: VideoModel, shown: Shown) -> Rendered: ...
