"""Optical flow: estimates by OpenCV, warping by it, and what it leaves unseen."""

from __future__ import annotations

import importlib.util

import numpy as np
import torch
import torch.nn.functional as F


def farneback(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float32 h w 2 from ``first`` to ``second``, uint8 h w 3 in RGB. Settings of OpenCV's own example."""
    import cv2

    a, b = (cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in (first, second))
    start = np.zeros((*a.shape, 2), np.float32)
    return np.asarray(
        cv2.calcOpticalFlowFarneback(a, b, start, 0.5, 3, 15, 3, 5, 1.2, 0)
    )  # pyramid, levels, window, iterations, n, sigma


def dense_inverse_search(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float32 h w 2 from ``first`` to ``second``, uint8 h w 3 in RGB (Kroeger et al. 2016, OpenCV's medium
    settings): it follows motion further than Farneback's does.

    Raises ValueError where OpenCV is not installed.
    """
    if importlib.util.find_spec("cv2") is None:
        raise ValueError("flow is found by OpenCV, which is not installed; pip install 'vgen[metrics]'")
    import cv2

    a, b = (cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in (first, second))
    start = np.zeros((*a.shape, 2), np.float32)
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return np.asarray(search.calc(a, b, start), np.float32)


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


def _targets(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    h, w = flow.shape[:2]
    y, x = np.mgrid[:h, :w].astype(np.float64)
    return x + flow[..., 0], y + flow[..., 1]


def halfway(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The frame between two, float h w 3 in 0..255 each: both are carried half of the way along the flow
    between them and averaged (Jiang et al. 2018, Super SloMo, equation 4 at t = 1/2). Where the way to one of
    them leaves the picture, the other stands alone."""
    seen = [np.clip(image, 0, 255).round().astype(np.uint8) for image in (first, second)]
    there, back = farneback(*seen).astype(np.float64), farneback(*reversed(seen)).astype(np.float64)
    total, weight = np.zeros_like(first, dtype=np.float64), np.zeros((*first.shape[:2], 1))
    for image, flow in ((first, (back - there) / 4), (second, (there - back) / 4)):
        shown = inside(flow)[..., None] + 1e-6
        total += warped(image, flow) * shown
        weight += shown
    return total / weight
