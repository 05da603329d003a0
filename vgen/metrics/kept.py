"""Whether an edit changed anything of a clip, and whether it kept anything of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vgen.metrics.psnr import psnr

_ELSEWHERE: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda video: video[:, :, ::-1],
    lambda video: video[:, ::-1],
    lambda video: np.roll(video, video.shape[2] // 2, 2),
    lambda video: np.roll(video, video.shape[1] // 2, 1),
    lambda video: np.roll(video, (video.shape[1] // 2, video.shape[2] // 2), (1, 2)),
)
"""The same colours at other places: mirrored, or moved by half a picture."""


def unrelated_psnr(video: np.ndarray) -> float:
    """dB between the clip and one that has nothing but its colours in common: the least of mirrored and
    moved copies. uint8 f h w 3."""
    return min(psnr(video, elsewhere(video)) for elsewhere in _ELSEWHERE)


def changed_nothing(edited: float, ceiling: float) -> bool:
    """Whether an edit is as near to what it began with as the decoder's own error lets anything be; both
    in dB."""
    return edited >= ceiling


def kept_nothing(edited: float, unrelated: float, ceiling: float) -> bool:
    """Whether an edit is as far from its source as an unrelated clip; nothing is said of a clip that looks
    like its own mirror image. In dB."""
    return edited <= unrelated < ceiling
