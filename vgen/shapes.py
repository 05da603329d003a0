"""Axis legend, and the two views between a clip and its frames.

Axes: ``b`` batch, ``f`` frames, ``c`` channels, ``h w`` height and width, ``n`` tokens, ``k`` key tokens,
``m`` heads, ``d`` head width. ``t`` is diffusion time and nothing else. Video is ``b f c h w`` at every
boundary, pixels and latents alike, so that folding is a view.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def fold(video: Tensor) -> Tensor:
    """``b f ... -> (b f) ...``: frames become rows of the image model's batch."""
    return video.flatten(0, 1)


def unfold(images: Tensor, num_frames: int) -> Tensor:
    """``(b f) ... -> b f ...``: the inverse of :func:`fold`."""
    return images.unflatten(0, (-1, num_frames))
