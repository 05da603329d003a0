"""Softmax attention by the kernel that is fastest where it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from vgen.backbones.cpu import HAS_BF16

FEW_KEYS = 256
"""Up to so many keys bf16 on a CPU is spared torch's fused kernel; more were not measured, and scores of
queries x keys take memory."""
FEW_FRAMES, NARROW = 16, 24
"""Up to so many keys, and heads so narrow, fp32 on a CPU is spared it too."""
_only_fused = False
"""A plain global: torch.compile reads it, and no context variable."""


@contextmanager
def fused_everywhere() -> Iterator[None]:
    """While it lasts, a CPU computes attention by torch's fused kernel alone, as a GPU does: for counting
    what a GPU will hold."""
    global _only_fused
    before, _only_fused = _only_fused, True
    try:
        yield
    finally:
        _only_fused = before


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """``... n d`` over ``... s d`` to ``... n d``; ``scale`` None is d^-.5 (Vaswani et al. 2017, eq. 1).

    torch's fused kernel, but for few keys on a CPU: there it makes a matrix product of every block of every
    head, each prepared anew. Three plain operations with backward take half to a tenth of its time in bf16
    (where the CPU has bf16), and .5 to .9 in fp32 where heads are narrow, too
    (benchmarks/attention_kernels.py). They stand transposed, keys before queries: softmax over few rows, side
    by side in memory, is what a CPU does well.
    """
    if q.device.type == "cpu" and mask is None and _plainly(q.dtype, k.shape[-2], k.shape[-1]):
        scores = k @ (q * (q.shape[-1] ** -0.5 if scale is None else scale)).mT
        return (v.mT @ scores.softmax(-2)).mT
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def _plainly(dtype: torch.dtype, num_keys: int, width: int) -> bool:
    """Whether plain operations are the faster ones on a CPU."""
    if _only_fused:
        return False
    if dtype is torch.bfloat16:
        return HAS_BF16 and num_keys <= FEW_KEYS
    return dtype is torch.float32 and num_keys <= FEW_FRAMES and width <= NARROW
