"""What the CPU at hand computes well."""

from __future__ import annotations

import torch

HAS_BF16: bool = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
"""Whether torch has a matrix product in bf16 for this CPU (AVX-512, or Arm's bf16 instructions).

Without one it multiplies number by number: 25 to 60 times slower than in fp32 (benchmarks/RESULTS.md).
"""
BF16_COSTS = "this CPU has no bf16 instructions, so matrix products take 25 to 60 times as long as in fp32"
"""What to tell whoever asks for it all the same."""


def matrix_dtype(device: torch.device) -> torch.dtype:
    """bf16 where matrix products are fast in it, else fp32; for work that bears either."""
    return torch.bfloat16 if device.type != "cpu" or HAS_BF16 else torch.float32
