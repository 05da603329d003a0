"""O3 for figures: are the joints where the control has them?"""

from __future__ import annotations

import numpy as np

from vgen.metrics.control import best_lag
from vgen.metrics.metric import Metric, Numbers

METRIC = Metric(
    "toybox/pose",
    2,
    "PCK@.05, MPJPE and LAG of the puppet's joints; CTRL-GAIN in PCK; flicker of ground and clothes",
)
NEAR, LOST = (
    0.05,
    0.5,
)  # canvas widths: a joint is right within the first; one that was not found is the second away
BODY = slice(
    5, 17
)  # COCO order: shoulders, elbows, wrists, hips, knees, ankles; the face moves with the head


def pose_fidelity(seen: np.ndarray, wanted: np.ndarray, decoy: np.ndarray | None = None) -> Numbers:
    """Joints f 17 2 in canvas widths, NaN where none was found. ``pck`` share of body joints within .05
    widths, ``mpjpe`` mean distance in widths, ``pck_moving`` PCK over joints that the control moves by more
    than .1 widths, which no frozen clip can earn (None if there is none), ``ctrl_gain`` PCK minus that with
    the poses of another task, ``pose_found`` share of frames with a figure."""
    if seen.shape != wanted.shape or seen.shape[1:] != (17, 2):
        raise ValueError(
            f"poses are f 17 2 of one length, got {seen.shape} and {wanted.shape}; read the clip with "
            "read_pose"
        )
    distance = _distance(seen, wanted)
    near = float((distance <= NEAR).mean())
    moving = np.linalg.norm(np.ptp(wanted[:, BODY], axis=0), axis=-1) > 2 * NEAR
    gain = None if decoy is None else near - _near(seen, decoy)
    found = float(np.isfinite(seen).all((1, 2)).mean())
    swift = float((distance[:, moving] <= NEAR).mean()) if moving.any() else None
    return {
        "pck": near,
        "pck_moving": swift,
        "mpjpe": float(distance.mean()),
        "ctrl_gain": gain,
        "pose_found": found,
    }


def pose_lag(seen: np.ndarray, wanted: np.ndarray) -> float | None:
    """The shift in frames at which joints f 17 2 lie nearest, above 0 where the clip is late; None where no
    figure was found."""
    return float(best_lag(seen, wanted, _closeness)) if np.isfinite(seen).any() else None


def _closeness(a: np.ndarray, b: np.ndarray) -> float:
    return 1 - float(_distance(a, b).mean()) / LOST


def _near(a: np.ndarray, b: np.ndarray) -> float:
    return float((_distance(a, b) <= NEAR).mean())


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    gap = np.linalg.norm(a[:, BODY] - b[:, BODY], axis=-1)
    return np.minimum(np.where(np.isfinite(gap), gap, LOST), LOST)
