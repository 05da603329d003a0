"""Interleaved-frame smoother: at a few steps, every other frame of the predicted sample becomes the midpoint
of its neighbours (Zhang et al. 2023, ControlVideo, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vgen.spec import Choice, spec

Midpoint = Callable[[Tensor, Tensor], Tensor]
"""Pixels n 3 H W in [-1, 1] of two moments each, to those half way between."""
CHUNK = 16
"""Frames that are in pixels at once."""


class Kept(Choice):
    """What of a smoothed frame comes back into latents.

    - ``sample``: a sample of the encoder's distribution, of every frame, as released.
    - ``mean``: its mean, of every frame.
    - ``change``: what smoothing changed, by the difference of means, added to the latents as they were. What
      encoder and decoder lose is lost by no frame, and a clip that stands still stays as it is.
    """

    SAMPLE = "sample"
    MEAN = "mean"
    CHANGE = "change"


@spec
class SmootherSpec:
    """``count`` steps in a row from the share ``start`` of the run on; 0 smooths nothing. The released 30 and
    31 of 50 steps are the default."""

    start: float = 0.6
    count: int = 2
    kept: Kept = Kept.SAMPLE

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1 or self.count < 0:
            raise ValueError(
                "the smoother needs a start, a share of the steps, of 0 or more and below 1 and a count of 0 "
                f"or more, got start={self.start} and count={self.count}; 0.6 and 2 are usual"
            )

    def steps(self, num_steps: int) -> range:
        first = int(self.start * num_steps + 1e-9)
        return range(first, min(first + self.count, num_steps))


def neighbours(num_frames: int, step: int) -> list[tuple[int, int, int]]:
    """Frames to replace, each with the two whose midpoint takes its place.

    Even steps replace odd frames that have two neighbours; odd steps replace even frames, of which those at
    the ends of the clip count as their own neighbours.
    """
    last = num_frames - 1
    if step % 2 == 0:
        return [(i, i - 1, i + 1) for i in range(1, last, 2)]
    return [(i, max(i - 1, 0), min(i + 1, last)) for i in range(0, num_frames, 2)]


def interleaved(pixels: Tensor, step: int, midpoint: Midpoint) -> Tensor:
    """``pixels`` f 3 H W with every other frame replaced, all read before any is written."""
    found = neighbours(len(pixels), step)
    if not found:
        return pixels
    at, left, right = (list(column) for column in zip(*found, strict=True))
    out = pixels.clone()
    out[at] = midpoint(pixels[left], pixels[right])
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoother:
    """A hook on the predicted sample. ``encode`` takes pixels f 3 H W and, for a random sample, one seed per
    frame (None: the mean). ``seeds`` gives those of a step, one per frame of the clip.

    No more than :data:`CHUNK` frames, and one on either side, are in pixels at once.
    """

    settings: SmootherSpec
    num_steps: int
    midpoint: Midpoint
    decode: Callable[[Tensor], Tensor]
    encode: Callable[[Tensor, list[int] | None], Tensor]
    seeds: Callable[[int], list[int]]

    def __call__(self, step: int, x0: Tensor) -> Tensor:
        """``x0`` r f c h w."""
        if step not in self.settings.steps(self.num_steps):
            return x0
        return torch.stack([torch.cat(list(self._parts(step, row))) for row in x0])

    def _parts(self, step: int, x0: Tensor) -> Iterator[Tensor]:
        """``x0`` f c h w, chunk by chunk. Chunks have an even length, so that a frame's number in its chunk
        is odd where its number in the clip is."""
        for start in range(0, len(x0), CHUNK):
            first, stop = max(start - 2, 0), min(start + CHUNK + 1, len(x0))
            own = slice(start - first, min(start + CHUNK, len(x0)) - first)
            pixels = self.decode(x0[first:stop])
            smooth = interleaved(pixels, step, self.midpoint)[own]
            yield self._encoded(step, start, x0[start : start + CHUNK], pixels[own], smooth)

    def _encoded(self, step: int, start: int, x0: Tensor, pixels: Tensor, smooth: Tensor) -> Tensor:
        match self.settings.kept:
            case Kept.SAMPLE:
                return self.encode(smooth, self.seeds(step)[start : start + len(x0)]).to(x0)
            case Kept.MEAN:
                return self.encode(smooth, None).to(x0)
            case Kept.CHANGE:
                return x0 + (self.encode(smooth, None) - self.encode(pixels, None)).to(x0)
