"""O2: do things stay what and where they are? Computed for every clip; the headline ``tc`` counts only clips
whose motion is right, because a frozen clip is perfectly consistent. (reference: oracle evaluation, 4.4)"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from vgen.metrics.matching import agrees, match
from vgen.metrics.metric import Metric, Numbers
from vgen.toybox.motion import paths
from vgen.toybox.oracle import Facts, Seen
from vgen.toybox.scenes import Scene

METRIC = Metric(
    "toybox/temporal-consistency",
    3,
    "PERM, IDSW, AREA-CV, CFLIP, SFLIP, JERK, MCRES, BGFLICK, and TC gated by correct motion",
)
WORST_AREA_CV, WORST_JERK, WORST_RESIDUAL, WORST_FLICKER = (
    0.5,
    0.1,
    0.25,
    25.0,
)  # where a term of TC reaches zero
_LOOKS = np.stack(np.meshgrid(*[np.linspace(-1, 1, 13)] * 2, indexing="ij"), -1).reshape(
    -1, 2
)  # y x, in radii of the thing


def temporal_consistency(
    facts: Facts, scene: Scene, video: np.ndarray, unspecified: Sequence[str] = ()
) -> Numbers:
    """``perm`` share of frames in which the things are there; ``idsw`` tracks begun anew per thing;
    ``area_cv``; ``cflip sflip`` share of frames with another colour or shape than usual; ``jerk`` mean second
    difference of the path minus that of the true one; ``mcres`` what changes of a body's pixels, 0..1, once
    it is carried along its path; ``bgflick`` in 1/255. Where ``unspecified`` has the motion, any motion of
    the world is right."""
    pairs = match(facts, scene)
    truth = paths(scene)[..., :2]
    seen = [s for _, s in pairs]
    num = max(1, len(pairs))
    out: dict[str, float] = {
        "perm": sum(len(s.frames) for s in seen if s is not None) / (num * facts.num_frames),
        "idsw": max(0, facts.num_tracks - int(facts.counts.max(initial=0))) / num,
        "area_cv": _mean(seen, lambda s: float((s.radii**2).std() / (s.radii**2).mean())),
        "cflip": _mean(seen, lambda s: sum(c is not s.colour for c in s.colours) / len(s.colours)),
        "sflip": _mean(seen, lambda s: sum(c is not s.shape for c in s.shapes) / len(s.shapes)),
        "jerk": float(np.mean([_jerk(s, truth[i]) for i, s in enumerate(seen)])) if seen else 1.0,
        "mcres": _mean(seen, lambda s: carried_residual(s, video, facts.bodies)),
        "bgflick": background_flicker(video, facts.covered),
    }
    terms = [
        out["perm"], 1 - out["idsw"], 1 - out["area_cv"] / WORST_AREA_CV, 1 - out["cflip"], 1 - out["sflip"],
        1 - out["jerk"] / WORST_JERK, 1 - out["mcres"] / WORST_RESIDUAL, 1 - out["bgflick"] / WORST_FLICKER,
    ]  # fmt: skip
    free = "motion" in unspecified
    right = bool(pairs) and all(
        s is not None and s.motion is not None if free else agrees(t, s, "motion") for t, s in pairs
    )
    return {**out, "tc": float(right) * float(np.prod(np.clip(np.array(terms, float), 0, 1)))}


def background_flicker(video: np.ndarray, covered: np.ndarray) -> float:
    """Mean change, in 1/255, of pixels that are ground in both frames."""
    if len(video) < 2:
        return 0.0
    wide = ndimage.binary_dilation(covered, np.ones((1, 3, 3), bool))
    keep = ~(wide[1:] | wide[:-1])
    change = np.abs(np.diff(video.astype(np.int16), axis=0)).mean(-1)
    return float(change[keep].mean()) if keep.any() else 255.0


def carried_residual(seen: Seen, video: np.ndarray, bodies: np.ndarray) -> float:
    """MCRES: mean absolute difference, 0..1, of a body's pixels in neighbouring frames, each looked at from
    its own centre; nothing in frames apart or without a common inside."""
    size = video.shape[1]
    steps = _LOOKS * float(np.median(seen.radii)) * size
    at = seen.centres[:, None, ::-1] * size - 0.5 + steps  # k n 2: y x in pixels
    frame = np.broadcast_to(seen.frames[:, None], at.shape[:2])
    where = [frame, at[..., 0], at[..., 1]]
    inside = ndimage.map_coordinates(bodies.astype(np.float32), where, order=1, prefilter=False) > 0.99
    looks = np.stack(
        [
            ndimage.map_coordinates(video[..., c], where, np.float32, order=1, prefilter=False)
            for c in range(3)
        ],
        -1,
    )
    both = inside[1:] & inside[:-1] & (np.diff(seen.frames) == 1)[:, None]
    return float(np.abs(np.diff(looks, axis=0))[both].mean() / 255) if both.any() else 0.0


def _mean(seen: Sequence[Seen | None], value: Callable[[Seen], float]) -> float:
    """A thing that was not found counts as 1, the worst."""
    return float(np.mean([1.0 if s is None else value(s) for s in seen])) if seen else 1.0


def _jerk(seen: Seen | None, truth: np.ndarray) -> float:
    if seen is None:
        return 1.0
    whole = (
        np.flatnonzero(seen.frames[2:] - seen.frames[:-2] == 2) if len(seen.frames) > 2 else np.zeros(0, int)
    )
    if not len(whole):
        return 0.0 if len(truth) < 3 else 1.0
    bend = np.linalg.norm(np.diff(seen.centres, n=2, axis=0), axis=1)[whole].mean()
    return max(0.0, float(bend - np.linalg.norm(np.diff(truth, n=2, axis=0), axis=1).mean()))
