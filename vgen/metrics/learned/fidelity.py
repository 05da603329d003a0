"""How close a video is to its source, frame by frame: PSNR, masked PSNR, SSIM, LPIPS."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from vgen.metrics.learned.frames import in_batches, pixels
from vgen.metrics.learned.lpips import LPIPS, load_lpips
from vgen.metrics.learned.registry import plugin
from vgen.metrics.learned.results import Scores
from vgen.metrics.learned.tools import Tools
from vgen.metrics.metric import Metric

PSNR_CAP = 100.0  # dB: identical frames would have infinity, which no mean and no JSON can hold


@plugin(
    Metric("psnr", 1, "peak signal to noise ratio against the source, dB; the error is pooled over a clip"),
    source="uint8, in float64", needs=["sources"],
)  # fmt: skip
def psnr(tools: Tools) -> Scores:
    return Scores(
        per_clip=[
            decibel(_squared(a, b).mean())
            for a, b in zip(tools.clips.videos, tools.clips.given("sources"), strict=True)
        ]
    )


@plugin(
    Metric("masked_psnr", 1, "PSNR over the masked pixels alone: the mask is the denominator, dB; an empty "
                             "mask asks for nothing"),
    source="-10 log10(Σ mask·error / Σ mask); PIE-Bench's code divides by the whole "
           "picture", needs=["sources", "masks"],
)  # fmt: skip
def masked_psnr(tools: Tools) -> Scores:
    clips = tools.clips
    triples = zip(clips.videos, clips.given("sources"), clips.given("masks"), strict=True)
    return Scores(
        per_clip=[decibel(_squared(a, b)[mask].mean()) if mask.any() else None for a, b, mask in triples]
    )


@plugin(
    Metric("ssim", 1, "structural similarity to the source, mean over frames"),
    source="Wang et al. 2004, as torchmetrics: RGB, Gaussian window 11 px, sigma 1.5, mirrored at the "
           "border", needs=["sources"],
)  # fmt: skip
def ssim(tools: Tools) -> Scores:
    return Scores(
        per_clip=[_ssim(a, b) for a, b in zip(tools.clips.videos, tools.clips.given("sources"), strict=True)]
    )


@plugin(
    Metric("lpips", 1, "learned perceptual distance to the source, mean over frames"),
    source="Zhang et al. 2018, version 0.1 with linear heads; frames in [-1, "
           "1]", better="lower", needs=["sources"], slots=[LPIPS],
)  # fmt: skip
@torch.inference_mode()
def lpips(tools: Tools) -> Scores:
    kind = tools.settings.lpips_net
    net = tools.network(LPIPS, lambda located, device: load_lpips(located.path, kind).to(device))

    def of(video: np.ndarray, source: np.ndarray) -> float:
        pairs = zip(
            in_batches(video, tools.settings.batch_size),
            in_batches(source, tools.settings.batch_size),
            strict=True,
        )
        parts = [
            net(
                pixels(a).to(tools.settings.device) * 2 - 1, pixels(b).to(tools.settings.device) * 2 - 1
            ).cpu()
            for a, b in pairs
        ]
        return float(torch.cat(parts).double().mean())

    scores = [of(a, b) for a, b in zip(tools.clips.videos, tools.clips.given("sources"), strict=True)]
    return Scores(per_clip=scores, options={"net": kind.value})


def decibel(error: float) -> float:
    """PSNR of a mean squared ``error`` of values in 0..1, at most PSNR_CAP."""
    return min(PSNR_CAP, -10 * math.log10(error)) if error > 0 else PSNR_CAP


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over frames, channels and pixels; Wang et al. 2004, equation 13.

    In float64: in float32 the variance of a flat region is rounding, and identical pictures read .9999
    (torchmetrics' default, which in float64 takes ten times as long).
    """
    x, y = a / 255, b / 255
    mean_x, mean_y, xx, yy, xy = (_windowed(z) for z in (x, y, x * x, y * y, x * y))
    structure = (2 * (xy - mean_x * mean_y) + 0.03**2) / (xx - mean_x**2 + yy - mean_y**2 + 0.03**2)
    return float((structure * (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)).mean())


def _windowed(x: np.ndarray) -> np.ndarray:
    """f h w 3 -> f h w 3, Gaussian means over 11×11 px."""
    return gaussian_filter(x, sigma=1.5, radius=5, axes=(1, 2), mode="mirror")


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64 f h w: mean over channels of the squared difference, full scale 1. uint8 would wrap around."""
    return np.square((a.astype(np.float64) - b) / 255).mean(-1)
