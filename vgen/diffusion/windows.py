"""Clips longer than what was trained: overlapping windows of frames, their predictions averaged where they
overlap."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vgen.spec import spec

OVERLAP = 4


@spec
class Sliding:
    """Window length and overlap in frames; ``num_frames`` 0 means that the whole clip is one window. The
    default overlap shrinks to half of a window that is no longer than it."""

    num_frames: int = 0
    overlap: int = OVERLAP

    def __post_init__(self) -> None:
        if self.num_frames < 0:
            raise ValueError(
                f"window.num_frames must not be negative, got {self.num_frames}; 0 takes the whole clip as "
                "one window"
            )
        if 0 < self.num_frames <= self.overlap == OVERLAP:
            self.overlap = self.num_frames // 2
        if self.num_frames and not 0 <= self.overlap < self.num_frames:
            raise ValueError(
                f"window.overlap must lie in 0..{self.num_frames - 1} for windows of {self.num_frames} "
                f"frames, got {self.overlap}; "
                f"give window.overlap={self.num_frames // 2}"
            )


def windows(num_frames: int, sliding: Sliding) -> list[range]:
    """Frame ranges of equal length that cover the clip; the last one is moved back to end with it."""
    size = sliding.num_frames or num_frames
    if size >= num_frames:
        return [range(num_frames)]
    starts = [*range(0, num_frames - size, size - sliding.overlap), num_frames - size]
    return [range(s, s + size) for s in starts]


def in_windows(predict: Callable[[Tensor, range], Tensor], x: Tensor, sliding: Sliding) -> Tensor:
    """``predict(part, frames)`` on every window of ``x`` b f c h w; frames seen by several windows get a mean
    weighted towards each window's middle, and gradients flow to all."""
    parts = windows(x.shape[1], sliding)
    if len(parts) == 1:
        return predict(x, parts[0])
    total, weight = torch.zeros_like(x), torch.zeros(x.shape[1], device=x.device, dtype=x.dtype)
    for part in parts:
        size = len(part)
        ramp = torch.minimum(torch.arange(size) + 1, size - torch.arange(size)).to(x)
        rows = slice(part.start, part.stop)
        total[:, rows] += predict(x[:, rows], part) * ramp[:, None, None, None]
        weight[rows] += ramp
    return total / weight[:, None, None, None]
