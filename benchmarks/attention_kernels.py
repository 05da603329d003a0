"""Attention of the sizes a video UNet has: vgen's choice of kernel against torch's fused one, forward alone
and with backward.

    python benchmarks/attention_kernels.py [rounds=9] [threads=1]

One JSON line a shape (rows, heads, queries, width of a head, keys); milliseconds are medians of interleaved
rounds, on a CPU or a GPU.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vgen.backbones.attend import attend

SHAPES = {  # of SD-1.5 at 128 px, 8 frames, and of the toybox, 64 px, 16 frames
    "frames, SD-1.5, finest": (256, 8, 8, 40, 8),
    "frames, SD-1.5, second": (64, 8, 8, 80, 8),
    "frames, toybox": (1024, 8, 16, 6, 16),
    "32 frames": (256, 8, 32, 40, 32),
    "64 frames": (256, 8, 64, 12, 64),
    "words, SD-1.5, finest": (1, 8, 8 * 256, 40, 77),
    "words, SD-1.5, second": (1, 8, 8 * 64, 80, 77),
    "words, toybox": (4, 4, 16 * 64, 24, 32),
    "positions, SD-1.5, finest": (8, 8, 256, 40, 256),
    "positions, SD-1.5, second": (8, 8, 64, 80, 64),
    "positions, toybox": (64, 4, 64, 24, 64),
}
SIDES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "ours": attend,
    "fused": F.scaled_dot_product_attention,
}


def run(
    kernel: Callable[[Tensor, Tensor, Tensor], Tensor], qkv: list[Tensor], heads: int, along: Tensor | None
) -> float:
    """Milliseconds; ``qkv`` rows n (m d) each, as projections leave them; ``along`` rows n (m d) is the
    gradient to send back, if any."""
    began = time.perf_counter()
    with torch.set_grad_enabled(along is not None):
        out = kernel(*(x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in qkv)).transpose(1, 2).flatten(2)
        if along is not None:
            torch.autograd.grad(out, qkv, along)
    if out.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - began) * 1e3


def main() -> None:
    options = dict(a.split("=", 1) for a in sys.argv[1:])
    torch.set_num_threads(int(options.get("threads", 1)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for dtype in (torch.float32, torch.bfloat16):
        for name, (rows, heads, queries, width, keys) in SHAPES.items():
            qkv = [
                torch.randn(rows, n, heads * width, device=device, dtype=dtype, requires_grad=True)
                for n in (queries, keys, keys)
            ]
            along = torch.randn(rows, queries, heads * width, device=device, dtype=dtype)
            times: dict[str, list[float]] = {}
            for number in range(int(options.get("rounds", 9)) + 2):
                for side, kernel in SIDES.items():
                    for what, gradient in (("forward", None), ("both", along)):
                        taken = run(kernel, qkv, heads, gradient)
                        if number >= 2:
                            times.setdefault(f"{side}_{what}_ms", []).append(taken)
            medians = {side: round(statistics.median(values), 2) for side, values in times.items()}
            print(
                json.dumps({"dtype": str(dtype)[6:], "attention": name, "device": device} | medians),
                flush=True,
            )


if __name__ == "__main__":
    main()
