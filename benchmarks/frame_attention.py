"""Attention over the frames at many positions: vgen's operation against torch's fused one, forward alone and with backward.

    python benchmarks/frame_attention.py [rounds=9]

One JSON line a shape (positions, frames, width of each of 8 heads); milliseconds are medians of interleaved rounds, on a CPU or a GPU.
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

from vgen.layers.frame_attention import over_frames

HEADS = 8
SHAPES = ((256, 8, 40), (64, 8, 80), (16, 8, 160), (1024, 8, 6), (256, 16, 12), (64, 16, 16), (256, 32, 12), (256, 64, 12))
SIDES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"ours": over_frames, "fused": F.scaled_dot_product_attention}


def run(attend: Callable[[Tensor, Tensor, Tensor], Tensor], qkv: Tensor, along: Tensor | None) -> float:
    """Milliseconds; ``qkv`` p f (3 m d) is laid out as a motion module has it, ``along`` p m f d is the gradient to send back, if any."""
    began = time.perf_counter()
    with torch.set_grad_enabled(along is not None):
        q, k, v = qkv.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        out = attend(q, k, v)
        if along is not None:
            torch.autograd.grad(out, qkv, along)
    if qkv.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - began) * 1e3


def main() -> None:
    options = dict(a.split("=", 1) for a in sys.argv[1:])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for dtype in (torch.float32, torch.bfloat16):
        for positions, frames, width in SHAPES:
            qkv = torch.randn(positions, frames, 3 * HEADS * width, device=device, dtype=dtype, requires_grad=True)
            along = torch.randn(positions, HEADS, frames, width, device=device, dtype=dtype)
            times: dict[str, list[float]] = {}
            for number in range(int(options.get("rounds", 9)) + 2):
                for name, attend in SIDES.items():
                    for what, gradient in (("forward", None), ("both", along)):
                        taken = run(attend, qkv, gradient)
                        if number >= 2:
                            times.setdefault(f"{name}_{what}_ms", []).append(taken)
            medians = {name: round(statistics.median(values), 2) for name, values in times.items()}
            print(json.dumps({"dtype": str(dtype)[6:], "shape": [positions, frames, width], "device": device} | medians), flush=True)


if __name__ == "__main__":
    main()
