"""Does every frame show the last one, moved? Errors of flow-aligned neighbours, on a scale of 0..1. A frozen
video has none."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from vgen.backbones.flow import inside, warped
from vgen.metrics.learned.flow import Motion, described, flow_ready, motions
from vgen.metrics.learned.registry import plugin
from vgen.metrics.learned.results import Scores
from vgen.metrics.learned.tools import Tools
from vgen.metrics.metric import Metric


@plugin(
    Metric("warp_error", 2, "mean squared difference of a frame and the next one brought onto it, over "
                            "pixels that both show"),
    source="Lai et al. 2018; ControlVideo's table has it times 100, with another "
           "flow", better="lower", min_frames=2, ready=flow_ready,
)  # fmt: skip
def warp_error(tools: Tools) -> Scores:
    """Mean over pairs of frames. A pair of which nothing is visible in both asks for nothing where that was
    given (a cut); where the flow is an estimate, a clip that boils so much that none of it can be followed
    does not go free, but is judged by all of its pixels."""
    found = motions(tools)
    seen = float(np.mean([motion.visible.mean() for motion in found]))
    note = f"{seen:.0%} of the pixels are seen in both frames of a pair; the others are not judged"
    return _scores(tools, [motion.visible if _given(tools) else _or_all(motion) for motion in found], [note])


@plugin(
    Metric("pixel_mse", 1, "warp_error over all pixels that stay in the picture, hidden ones too"),
    source="Pix2Video, Rerender, FRESCO: Pixel-MSE", better="lower", min_frames=2, ready=flow_ready,
)  # fmt: skip
def pixel_mse(tools: Tools) -> Scores:
    return _scores(tools, [np.stack([inside(flow) for flow in motion.flow]) for motion in motions(tools)])


def _given(tools: Tools) -> bool:
    return tools.clips.flow is not None


def _or_all(motion: Motion) -> np.ndarray:
    """bool f-1 h w: what both frames show, or all that stays in the picture for pairs that share nothing."""
    pairs = zip(motion.visible, motion.flow, strict=True)
    return np.stack([visible if visible.any() else inside(flow) for visible, flow in pairs])


def _scores(tools: Tools, masks: list[np.ndarray], notes: Sequence[str] = ()) -> Scores:
    options, read = described(tools)
    rows = zip(tools.clips.videos, motions(tools), masks, strict=True)
    errors = [_error(video, motion.flow, mask) for video, motion, mask in rows]
    return Scores(per_clip=errors, options=options, read=read, notes=list(notes))


def _error(video: np.ndarray, flow: np.ndarray, mask: np.ndarray) -> float | None:
    errors = [
        _pair(a, b, step, m) for (a, b), step, m in zip(pairwise(video), flow, mask, strict=True) if m.any()
    ]
    return float(np.mean(errors)) if errors else None


def _pair(first: np.ndarray, second: np.ndarray, flow: np.ndarray, mask: np.ndarray) -> float:
    return float(np.square((warped(second, flow) - first) / 255)[mask].mean())
