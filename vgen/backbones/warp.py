"""Pictures carried along optical flow, and what flow leaves unseen, in torch: one code for CPU and GPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vgen.backbones.flow import dense_inverse_search

TOLERANCE, SHARE = 0.5, 0.01
"""Pixels by which going there and back may miss, and the share of both motions that is added to them (Meister
et al. 2018, UnFlow)."""
REACH, WIDTH = 9, 18.0
"""Pixels by which hidden places grow, and the deviation of the blur behind it (Yang et al. 2023, Rerender A
Video, released code)."""


@dataclass(frozen=True, slots=True)
class Motion:
    """From a frame back to an earlier one: ``flow`` 1 2 H W in pixels, from each pixel to where it was, and
    ``hidden`` 1 1 H W, 1 where it was not to be seen."""

    flow: Tensor
    hidden: Tensor


def moved(x: Tensor, flow: Tensor, *, mode: str = "bilinear", outside: str = "zeros") -> Tensor:
    """``x`` b c h w read at p + flow(p), ``flow`` b 2 h w in cells, x before y. ``mode`` and ``outside`` are
    those of torch's ``grid_sample``.

    Raises ValueError for a flow of another size.
    """
    h, w = x.shape[-2:]
    if flow.ndim != 4 or tuple(flow.shape[1:]) != (2, h, w):
        raise ValueError(
            f"flow must be b 2 h w of the picture's size {h} x {w}, got shape {tuple(flow.shape)}; estimate "
            "it at that size, or resize and scale it"
        )
    across = torch.arange(w, device=x.device) + flow[:, 0]
    down = torch.arange(h, device=x.device)[:, None] + flow[:, 1]
    grid = torch.stack([2 * across / max(w - 1, 1) - 1, 2 * down / max(h - 1, 1) - 1], -1)
    return F.grid_sample(x, grid.to(x), mode=mode, padding_mode=outside, align_corners=True)


def hidden(flow: Tensor, back: Tensor) -> Tensor:
    """b 1 h w, 1 where going along ``flow`` b 2 h w and ``back`` again does not return."""
    missed = (flow + moved(back, flow)).norm(dim=1, keepdim=True)
    size = flow.norm(dim=1, keepdim=True) + back.norm(dim=1, keepdim=True)
    return (missed > SHARE * size + TOLERANCE).to(flow)


def motion(earlier: Tensor, later: Tensor) -> Motion:
    """From ``later`` back to ``earlier``, pixels 3 H W in [-1, 1] each, by OpenCV's dense inverse search."""
    frames = [_bytes(frame) for frame in (earlier, later)]
    flow, back = (
        torch.from_numpy(dense_inverse_search(first, second)).permute(2, 0, 1)[None].to(later)
        for first, second in (reversed(frames), frames)
    )
    return Motion(flow, hidden(flow, back))


def softened(places: Tensor) -> Tensor:
    """Hidden places b 1 h w, grown and with soft edges, still 1 where they were."""
    grown = F.max_pool2d(places, REACH, stride=1, padding=REACH // 2)
    offsets = torch.arange(REACH, device=places.device) - REACH // 2
    kernel = torch.exp(-0.5 * (offsets / WIDTH) ** 2)
    kernel = (kernel / kernel.sum()).to(places)
    padded = F.pad(grown, [REACH // 2] * 4, mode="reflect")
    blurred = F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])
    return (blurred + places).clamp(0, 1)


def _bytes(frame: Tensor) -> np.ndarray:
    scaled = (frame.detach().float().cpu().permute(1, 2, 0) + 1) * 127.5
    return scaled.round().clamp(0, 255).to(torch.uint8).numpy()
