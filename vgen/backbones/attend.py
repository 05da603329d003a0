"""Softmax attention by the kernel that is fastest where it runs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FEW_KEYS = 256
"""Up to so many keys bf16 on a CPU is spared torch's fused kernel; more were not measured, and scores of
queries x keys take memory."""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """``... n d`` over ``... s d`` to ``... n d``; ``scale`` None is d^-.5 (Vaswani et al. 2017, eq. 1).

    torch's fused kernel, but for bf16 on a CPU and few keys: there it makes a matrix product of every block
    of every head, each prepared anew, and three plain operations take half to a tenth of the time with
    backward (benchmarks/attention_kernels.py). They stand transposed, keys before queries: softmax over few
    rows, side by side in memory, is what a CPU does well.
    """
    if q.device.type == "cpu" and q.dtype is torch.bfloat16 and k.shape[-2] <= FEW_KEYS and mask is None:
        scores = k @ (q * (q.shape[-1] ** -0.5 if scale is None else scale)).mT
        return (v.mT @ scores.softmax(-2)).mT
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
