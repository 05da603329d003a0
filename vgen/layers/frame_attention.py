"""Softmax attention over the frames at one position: a great many sequences, each a few frames long."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LONGEST = 64
"""Above this many frames a blocked kernel is faster than matrices of frames x frames, and needs less memory."""


def over_frames(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``... m f d`` each to ``... m f d``; scaled by d^-.5 (Vaswani et al. 2017, eq. 1).

    torch's CPU kernel works in blocks made for long sequences: forward and backward of 8 to 32 frames take it up to nine times as long in
    bf16 as the three plain operations (benchmarks/RESULTS.md). A GPU gets the fused kernel.
    """
    if q.device.type != "cpu" or q.shape[-2] > LONGEST:
        return F.scaled_dot_product_attention(q, k, v)
    return torch.softmax((q * q.shape[-1] ** -0.5) @ k.mT, -1) @ v
