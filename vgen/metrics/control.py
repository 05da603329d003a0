"""O3: does the clip follow its control? (reference: oracle evaluation, 4.4; boundary F as in DAVIS)

J alone is earned in part by any large thing in the middle of the canvas, so CTRL_GAIN subtracts what the same
clip scores on the control of another task: a model that ignores its control has none.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from vgen.metrics.metric import Metric, Numbers

METRIC = Metric(
    "toybox/control", 1, "J, J normalised by the parser's ceiling, boundary F@1 and F@2, LAG, CTRL-GAIN"
)
LONGEST_LAG = 3  # frames
_TIE = 0.01  # of IoU: a lag has to be better by this, or the clip stands still
_CROSS = ndimage.generate_binary_structure(2, 1)[None]


def mask_fidelity(
    shown: np.ndarray, wanted: np.ndarray, decoy: np.ndarray | None = None, ceiling: float = 1.0
) -> Numbers:
    """Masks are bool f h w: of the clip, of its control, of another task's control. ``ceiling`` is J of the
    parser on the truth.

    ``j`` intersection over union; ``j_norm`` as a share of the ceiling; ``f1 f2`` boundary F with one and two
    pixels of tolerance; ``lag`` the shift in frames at which the clip fits best, ``on_time`` 1 if that is
    none; ``ctrl_gain`` J minus that with the decoy."""
    _check(shown, wanted, decoy)
    j = iou(shown, wanted)
    lag = best_lag(shown, wanted)
    return {
        "j": j,
        "j_norm": min(1.0, j / ceiling) if ceiling > 0 else 0.0,
        "f1": boundary_f(shown, wanted, 1),
        "f2": boundary_f(shown, wanted, 2),
        "lag": float(lag),
        "on_time": float(lag == 0 and j > 0),
        "ctrl_gain": None if decoy is None else j - iou(shown, decoy),
    }


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over frames; two empty frames agree."""
    both, either = (a & b).sum((-1, -2)), (a | b).sum((-1, -2))
    return float(np.where(either, both / np.maximum(either, 1), 1.0).mean())


def boundary_f(a: np.ndarray, b: np.ndarray, tolerance_px: int) -> float:
    """Harmonic mean of the shares of either boundary that lie within ``tolerance_px`` of the other; mean over
    frames."""
    edges = [mask & ~ndimage.binary_erosion(mask, _CROSS, border_value=1) for mask in (a, b)]
    reach = (
        np.hypot(*np.mgrid[-tolerance_px : tolerance_px + 1, -tolerance_px : tolerance_px + 1])
        <= tolerance_px
    )
    near = [ndimage.binary_dilation(edge, reach[None]) for edge in edges]
    precision, recall = (_share(edges[i] & near[1 - i], edges[i], edges[1 - i]) for i in (0, 1))
    return float((2 * precision * recall / np.maximum(precision + recall, 1e-9)).mean())


def _share(hit: np.ndarray, own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Per frame; nothing to find and nothing found is right."""
    num, whole = hit.sum((-1, -2)), own.sum((-1, -2))
    return np.where(whole, num / np.maximum(whole, 1), np.where(other.any((-1, -2)), 0.0, 1.0))


Fit = Callable[[np.ndarray, np.ndarray], float]
"""How well frames fit to as many others; 1 is best."""


def best_lag(shown: np.ndarray, wanted: np.ndarray, fit: Fit = iou) -> int:
    """Frames by which the clip trails its control; 0 where no shift fits better (things that stand still fit
    at any)."""
    scores = {0: fit(shown, wanted)}
    for lag in range(1, min(LONGEST_LAG, len(shown) - 1) + 1):
        scores[lag], scores[-lag] = fit(shown[lag:], wanted[:-lag]), fit(shown[:-lag], wanted[lag:])
    best = max(scores, key=scores.__getitem__)
    return best if scores[best] > scores[0] + _TIE else 0


def _check(shown: np.ndarray, wanted: np.ndarray, decoy: np.ndarray | None) -> None:
    for mask in (shown, wanted, decoy):
        if mask is not None and (mask.shape != wanted.shape or mask.dtype != bool or mask.ndim != 3):
            raise ValueError(
                f"control fidelity compares bool masks f h w of one shape, got {mask.dtype} {mask.shape} "
                f"beside {wanted.shape}; threshold "
                "or trim them first"
            )
