"""Motion between neighbouring frames: given, or estimated by OpenCV's Farneback; and what it brings onto
what."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F

from vgen.metrics.learned.settings import FlowOf
from vgen.metrics.learned.tools import Tools
from vgen.metrics.learned.weights import Absent


@dataclass(frozen=True, slots=True)
class Motion:
    """``flow``: float32 f-1 h w 2, x and y in pixels from each frame to the next. ``visible``: bool f-1 h w,
    seen in the next frame."""

    flow: np.ndarray
    visible: np.ndarray


def flow_ready(tools: Tools) -> None:
    """Raises Absent where no flow is given and none can be estimated."""
    if tools.clips.flow is not None:
        return
    if tools.settings.flow_of is FlowOf.SOURCES and tools.clips.sources is None:
        raise Absent("flow_of=sources estimates the motion of the sources, which were not given")
    opencv_ready(tools)


def opencv_ready(tools: Tools) -> None:
    if importlib.util.find_spec("cv2") is None:
        raise Absent(
            "optical flow needs OpenCV, which is not installed: pip install 'vgen[metrics]', or give the flow"
        )


def motions(tools: Tools) -> list[Motion]:
    """One per clip. Pixels that leave the picture are never visible."""
    return tools.once(("motions",), lambda: [_motion(tools, i) for i in range(tools.clips.num)])


def described(tools: Tools) -> tuple[dict[str, str], tuple[str, ...]]:
    """For the manifest: where the flow is from, and which fields of the clips that reads."""
    if tools.clips.flow is not None:
        hidden = tools.clips.hidden is not None
        return {"flow": "given", "hidden": "given" if hidden else "none"}, ("flow", "hidden") if hidden else (
            "flow",
        )
    of = tools.settings.flow_of
    return {"flow": f"Farneback of {of.value}", "hidden": "there and back disagree"}, (
        "sources",
    ) if of is FlowOf.SOURCES else ()


def farneback(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float32 h w 2 from ``first`` to ``second``, uint8 h w 3 in RGB. Settings of OpenCV's own example."""
    import cv2

    a, b = (cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in (first, second))
    start = np.zeros((*a.shape, 2), np.float32)
    return np.asarray(
        cv2.calcOpticalFlowFarneback(a, b, start, 0.5, 3, 15, 3, 5, 1.2, 0)
    )  # pyramid, levels, window, iterations, n, sigma


def warped(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """``image`` h w c read at x + flow(x), bilinear: the second frame brought onto the first one by the first
    one's forward flow."""
    h, w = flow.shape[:2]
    x, y = _targets(flow)
    grid = torch.from_numpy(np.stack([2 * x / max(w - 1, 1) - 1, 2 * y / max(h - 1, 1) - 1], -1))[
        None
    ].double()
    source = torch.from_numpy(np.ascontiguousarray(image)).double().permute(2, 0, 1)[None]
    return (
        F.grid_sample(source, grid, mode="bilinear", padding_mode="border", align_corners=True)[0]
        .permute(1, 2, 0)
        .numpy()
    )


def inside(flow: np.ndarray) -> np.ndarray:
    """bool h w: the pixel's target lies in the picture."""
    h, w = flow.shape[:2]
    x, y = _targets(flow)
    return (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)


def disagreeing(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """bool h w: going there and back does not return, or the motion has an edge here (Ruder et al. 2016,
    equations 5 and 6)."""
    back = warped(backward, forward)
    size = np.square(forward).sum(-1)
    away = np.square(forward + back).sum(-1) > 0.01 * (size + np.square(back).sum(-1)) + 0.5
    steps = (
        [np.gradient(forward, axis=axis) for axis in (0, 1)]
        if min(size.shape) > 1
        else [np.zeros_like(forward)]
    )
    edge = sum(np.square(step).sum(-1) for step in steps) > 0.01 * size + 0.002
    return away | edge


def _motion(tools: Tools, i: int) -> Motion:
    clips = tools.clips
    if clips.flow is not None:
        hidden = clips.hidden[i] if clips.hidden is not None else np.zeros(clips.flow[i].shape[:3], bool)
        return Motion(clips.flow[i], np.stack([inside(flow) for flow in clips.flow[i]]) & ~hidden)
    video = clips.given(tools.settings.flow_of.value)[i]
    forward = [farneback(a, b) for a, b in pairwise(video)]
    backward = [farneback(b, a) for a, b in pairwise(video)]
    visible = [
        inside(there) & ~disagreeing(there, back) for there, back in zip(forward, backward, strict=True)
    ]
    return Motion(np.stack(forward), np.stack(visible))


def _targets(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    h, w = flow.shape[:2]
    y, x = np.mgrid[:h, :w].astype(np.float64)
    return x + flow[..., 0], y + flow[..., 1]
