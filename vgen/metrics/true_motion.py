"""Does every frame show the last one, moved as the scene truly moves? No flow is estimated, so that a clip
that boils is not followed in its boiling."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy import ndimage

from vgen.metrics.metric import Metric
from vgen.toybox.renderer import Rendered, render
from vgen.toybox.scenes import Scene

METRIC = Metric(
    "toybox/true-motion",
    1,
    "WARP: a hundred times the mean squared difference of a frame and the next one brought onto it by the "
    "exact flow, over pixels that both show",
)


def warp_error(video: np.ndarray, scene: Scene) -> float | None:
    """WARP of a clip uint8 f h w 3 along the motion of ``scene``, colours in 0..1; 0 is steady. None for a
    still, and where no pixel stays in sight."""
    if len(video) < 2:
        return None
    truth = render(scene, video.shape[1])
    steps, labels = truth.flow().astype(np.float64), _labels(truth)
    frames, errors = video.astype(np.float64) / 255, []
    for (a, b), (here, there), flow in zip(pairwise(frames), pairwise(labels), steps, strict=True):
        at = _targets(flow)
        seen = _inside(at, here.shape) & (_read(there, at, 0) == here)
        brought = np.stack([_read(b[..., c], at, 1) for c in range(3)], -1)
        errors.append(np.square(brought - a)[seen])
    every = np.concatenate(errors)
    return 100 * float(every.mean()) if every.size else None


def _labels(drawn: Rendered) -> np.ndarray:
    """f h w: 0 is the ground, the others are things by their numbers from 1."""
    if not drawn.masks.shape[1]:
        return np.zeros(drawn.video.shape[:3])
    return np.where(drawn.masks.max(1) > 0.5, drawn.masks.argmax(1) + 1.0, 0.0)


def _targets(flow: np.ndarray) -> np.ndarray:
    """Rows and columns, 2 h w, to which the pixels of a frame go by a flow h w 2 of x and y."""
    rows, columns = np.mgrid[: flow.shape[0], : flow.shape[1]]
    return np.stack([rows + flow[..., 1], columns + flow[..., 0]])


def _inside(at: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    last = np.array(size)[:, None, None] - 1
    return np.asarray(((at >= 0) & (at <= last)).all(0))


def _read(image: np.ndarray, at: np.ndarray, order: int) -> np.ndarray:
    """``image`` h w at places 2 h w: the nearest pixel with ``order`` 0, between pixels with 1."""
    return ndimage.map_coordinates(image, at, order=order, mode="nearest", prefilter=False)
