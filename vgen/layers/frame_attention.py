"""Softmax attention over the frames at one position: a great many sequences, each a few frames long."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LONGEST = 64
"""Above this many frames matrices of frames x frames cost more memory than the blocks of a fused kernel."""


def over_frames(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``... m f d`` each to ``... m f d``; scaled by d^-.5 (Vaswani et al. 2017, eq. 1).

    torch's fused kernel, but for bf16 on a CPU: there it works in blocks made for long sequences, and 8 to 64 frames take it two to twelve
    times as long, forward and backward, as the three plain operations (benchmarks/frame_attention.py).
    """
    if q.device.type == "cpu" and q.dtype is torch.bfloat16 and q.shape[-2] <= LONGEST:
        return torch.softmax((q * q.shape[-1] ** -0.5) @ k.mT, -1) @ v
    return F.scaled_dot_product_attention(q, k, v)
