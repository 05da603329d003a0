"""From stored frames to what a network reads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def in_batches(frames: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(frames), size):
        yield frames[start : start + size]


def pixels(frames: np.ndarray) -> Tensor:
    """uint8 n h w 3 -> float32 n 3 h w in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255


def shortest_edge(images: Tensor, size_px: int, mode: str) -> Tensor:
    """Shorter side to ``size_px``, the longer one in proportion, rounded down; **without** antialiasing, as
    VBench does it on tensors."""
    h, w = images.shape[-2:]
    size = (size_px, int(size_px * w / h)) if h <= w else (int(size_px * h / w), size_px)
    return F.interpolate(images, size=size, mode=mode, align_corners=False, antialias=False)


def centre_crop(images: Tensor, size_px: int) -> Tensor:
    top, left = (round((side - size_px) / 2) for side in images.shape[-2:])
    return images[..., top : top + size_px, left : left + size_px]
