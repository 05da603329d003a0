"""Frame schedules: which frames of a clip a denoiser sees together, and what is kept of its predictions."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from vgen.spec import Choice, field, spec

OVERLAP = 4
SHORTEST_CLIP = 3
"""Two keys and a frame between them."""
Frames = range | tuple[int, ...]
"""Numbers of frames, in the order in which they are seen."""


class Role(Choice):
    """What a pass is for: the ``whole`` clip, a ``window`` of it, its ``keys``, or the frames ``between``
    two keys."""

    WHOLE = "whole"
    WINDOW = "window"
    KEYS = "keys"
    BETWEEN = "between"


@dataclass(frozen=True, slots=True)
class Pass:
    """``frames`` are seen together. Their predictions count by ``weights``, one per frame, or all alike.

    A frame of weight 0 is read by the others, and its own prediction is dropped.
    """

    frames: Frames
    role: Role = Role.WHOLE
    weights: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.frames)


class FrameSchedule(ABC):
    """How a clip is split into passes of the denoiser, at every step anew."""

    __slots__ = ()

    @abstractmethod
    def passes(self, num_frames: int) -> list[Pass]:
        """The passes of a clip of ``num_frames``, which together predict every frame."""

    @abstractmethod
    def told(self, num_frames: int) -> str:
        """How a clip of ``num_frames`` is seen, for people."""

    def frames_seen(self, num_frames: int) -> int:
        """Frames that the denoiser sees in one step, a frame counted in every pass that reads it."""
        return sum(len(part) for part in self.passes(num_frames))

    def at_once(self, num_frames: int) -> int:
        """The most frames that are seen together."""
        return max(len(part) for part in self.passes(num_frames))


def counted(num_frames: int) -> str:
    return f"{num_frames} frame{'s' * (num_frames != 1)}"


@spec
class Whole(FrameSchedule):
    """The clip at once."""

    def passes(self, num_frames: int) -> list[Pass]:
        return [Pass(range(num_frames))]

    def told(self, num_frames: int) -> str:
        return f"{counted(num_frames)} at once"


@spec
class Sliding(FrameSchedule):
    """Overlapping windows of equal length, the last one moved back to end with the clip. Where they overlap,
    predictions are averaged, weighted towards each window's middle.

    ``num_frames`` 0 means that the whole clip is one window. The default ``overlap`` shrinks to half of a
    window that is no longer than it.
    """

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

    def passes(self, num_frames: int) -> list[Pass]:
        size = self.num_frames or num_frames
        if size >= num_frames:
            return [Pass(range(num_frames))]
        starts = [*range(0, num_frames - size, size - self.overlap), num_frames - size]
        weights = tuple(float(min(i + 1, size - i)) for i in range(size))
        return [Pass(range(s, s + size), Role.WINDOW, weights) for s in starts]

    def told(self, num_frames: int) -> str:
        parts = self.passes(num_frames)
        if len(parts) == 1:
            return Whole().told(num_frames)
        return (
            f"{num_frames} frames in {len(parts)} windows of {len(parts[0])} that overlap by {self.overlap} "
            "or more and are averaged at every step (window.num_frames=0 for all at once)"
        )


@spec
class Hierarchical(FrameSchedule):
    """Key frames first, then the frames between every two of them, which read both (Zhang et al. 2023,
    ControlVideo, section 3.3). The most that is seen together grows with the square root of the length.

    A clip of up to ``num_frames`` is seen whole; 0: every clip is. A key stands every ``clip`` - 1 frames,
    and at the end; ``clip`` 0 is the square root of the clip's length, rounded down, and at least 3.
    """

    num_frames: int = 0
    clip: int = 0

    def __post_init__(self) -> None:
        if self.num_frames < 0:
            raise ValueError(
                f"num_frames must not be negative, got {self.num_frames}; 0 takes the whole clip at once"
            )
        if self.clip and self.clip < SHORTEST_CLIP:
            raise ValueError(
                f"clip must hold two keys and a frame between them, {SHORTEST_CLIP} frames, got {self.clip}; "
                "0 is the square root of the length"
            )

    def passes(self, num_frames: int) -> list[Pass]:
        if not self.num_frames or num_frames <= self.num_frames:
            return [Pass(range(num_frames))]
        length = self.clip or max(SHORTEST_CLIP, math.isqrt(num_frames))
        keys = list(range(0, num_frames, length - 1))
        if keys[-1] != num_frames - 1:
            keys.append(num_frames - 1)
        out = [Pass(tuple(keys), Role.KEYS)]
        for left, right in pairwise(keys):
            inner = range(left + 1, right)
            if inner:
                weights = (0.0, 0.0, *[1.0] * len(inner))
                out.append(Pass((left, right, *inner), Role.BETWEEN, weights))
        return out

    def told(self, num_frames: int) -> str:
        keys, *between = self.passes(num_frames)
        if keys.role is Role.WHOLE:
            return Whole().told(num_frames)
        longest = max((len(one) - 2 for one in between), default=0)
        return (
            f"{num_frames} frames as {len(keys)} keys seen together and, between two keys each, "
            f"{len(between)} clips of up to {longest} (window.num_frames=0 for all at once)"
        )


@spec
class Sequential(FrameSchedule):
    """Key frames one after another, each of which may read those before it; what lies between two of them is
    made of both (Yang et al. 2023, Rerender A Video). A key stands every ``interval`` frames, and at the
    end."""

    interval: int = 10

    def __post_init__(self) -> None:
        if self.interval < 1:
            raise ValueError(f"interval must be 1 or more, got {self.interval}; 1 makes a key of every frame")

    def keys(self, num_frames: int) -> list[int]:
        """Numbers of the key frames."""
        return sorted({*range(0, num_frames, self.interval), num_frames - 1})

    def passes(self, num_frames: int) -> list[Pass]:
        keys = self.keys(num_frames)
        between = [Pass(range(a + 1, b), Role.BETWEEN) for a, b in pairwise(keys) if b - a > 1]
        return [*(Pass((key,), Role.KEYS) for key in keys), *between]

    def told(self, num_frames: int) -> str:
        keys = len(self.keys(num_frames))
        return f"{counted(num_frames)}, {keys} of them keys drawn one after another, the others made of these"


@spec
class Fused(FrameSchedule):
    """Overlapping windows, fused with a video of key frames that all of them agree on (Zhao et al. 2023,
    ControlVideo, version 2: long videos; Bar-Tal et al. 2023, MultiDiffusion, equation 5).

    Keys are the first frame of every window and the last one of the clip. In a key frame the prediction of
    the key frames' video weighs ``key_share``, that of the windows the rest; 0 leaves it out. A clip that
    fits in one window is seen whole.
    """

    windows: Sliding = field(default_factory=Sliding)
    key_share: float = 0.5

    def __post_init__(self) -> None:
        check_key_share(self.key_share)

    def passes(self, num_frames: int) -> list[Pass]:
        windows = self.windows.passes(num_frames)
        if len(windows) == 1 or not self.key_share:
            return windows
        keys = sorted({*(one.frames[0] for one in windows), num_frames - 1})
        total = [0.0] * num_frames
        for one in windows:
            for frame, weight in zip(one.frames, one.weights, strict=True):
                total[frame] += weight
        factor = self.key_share / (1 - self.key_share)
        weights = tuple(factor * total[key] for key in keys)
        return [Pass(tuple(keys), Role.KEYS, weights), *windows]

    def told(self, num_frames: int) -> str:
        passes = self.passes(num_frames)
        if passes[0].role is not Role.KEYS:
            return self.windows.told(num_frames)
        return f"{self.windows.told(num_frames)}, together with a video of {len(passes[0])} key frames"


def check_key_share(share: float) -> None:
    """Raises ValueError for a share that leaves the windows nothing."""
    if not 0 <= share < 1:
        raise ValueError(
            f"key_share must be 0 or more and below 1, got {share}; 0.5 weighs key frames and windows alike"
        )


def frames_of(x: Tensor, frames: Frames, axis: int = 1) -> Tensor:
    """Some frames of ``x``: a view where they stand side by side."""
    if isinstance(frames, range):
        return x.narrow(axis, frames.start, len(frames))
    return x.index_select(axis, torch.tensor(frames, device=x.device))


def in_passes(predict: Callable[[Tensor, Pass], Tensor], x: Tensor, schedule: FrameSchedule) -> Tensor:
    """``predict(part, one)`` in every pass over ``x`` b f c h w. Frames that count in several passes get the
    weighted mean, and gradients flow to all."""
    parts = schedule.passes(x.shape[1])
    if len(parts) == 1:
        return predict(x, parts[0])
    total, weight = torch.zeros_like(x), torch.zeros(x.shape[1], device=x.device, dtype=x.dtype)
    for one in parts:
        counts = torch.tensor(one.weights or [1.0] * len(one)).to(x)
        at = torch.tensor(one.frames, device=x.device)
        out = predict(frames_of(x, one.frames), one)
        total.index_add_(1, at, out * counts[:, None, None, None])
        weight.index_add_(0, at, counts)
    return total / weight[:, None, None, None]
