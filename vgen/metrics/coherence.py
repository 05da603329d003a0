"""Do neighbouring frames show the same world? Needs no caption, so it can compare motion modules before they
obey one.

``pixel_agreement`` (1 - mean |difference|, what public suites call temporal flickering) rewards frozen
frames: they score 1. ``coherence`` asks instead whether the oracle reads the same things twice, and within
reach of where they were: stills of one caption, drawn one by one, show the same thing at another place. It is
blind to where things should go, gives nothing for an empty picture and little for flicker. Frozen frames
score 1 there too, so both stand beside motion accuracy and never replace it.
"""

from __future__ import annotations

import numpy as np

from vgen.metrics.metric import Metric, Numbers
from vgen.toybox.oracle import Facts
from vgen.toybox.scenes import SPEED, Colour, Shape, Speed

METRIC = Metric(
    "toybox/coherence",
    3,
    "share of neighbouring frames that agree in count, colours, shapes, ground and (within reach) place",
)
GROUND_SHIFT = (
    0.04  # of full scale: a fifth of the distance between the nearest two grounds is still the same ground
)
REACH = 2 * SPEED[Speed.FAST]
"""Canvas widths per tick that a thing may travel: twice as far as anything of the core world does."""


def coherence(facts: Facts, video: np.ndarray, stride_ticks: int) -> Numbers:
    """``video`` uint8 f h w 3, ``stride_ticks`` between its frames. Both numbers lie in 0..1; a still has
    neither."""
    if len(video) < 2:
        return {"coherence": None, "pixel_agreement": None}
    shown = [_shown(facts, frame) for frame in range(facts.num_frames)]
    ground = np.median(video[:, ::2, ::2].reshape(len(video), -1, 3), axis=1) / 255
    steady = np.abs(np.diff(ground, axis=0)).max(-1) < GROUND_SHIFT
    counted = facts.counts[1:] == facts.counts[:-1]
    same = [
        bool(steady[i] and counted[i] and _alike(shown[i], shown[i + 1], REACH * stride_ticks))
        for i in range(len(steady))
    ]
    change = np.abs(np.diff(video.astype(np.int16), axis=0)).mean() / 255
    return {"coherence": float(np.mean(same)), "pixel_agreement": 1 - float(change)}


_Shown = dict[int, tuple[Colour, Shape, np.ndarray]]


def _shown(facts: Facts, frame: int) -> _Shown:
    """Colour, shape and centre in one frame by track."""
    out: _Shown = {}
    for i, thing in enumerate(facts.things):
        at = np.flatnonzero(thing.frames == frame)
        if len(at):
            out[i] = (thing.colours[at[0]], thing.shapes[at[0]], thing.centres[at[0]])
    return out


def _alike(a: _Shown, b: _Shown, reach: float) -> bool:
    """Is something shown, the same in both, and nothing further away than ``reach`` from where it was?"""
    return (
        bool(a)
        and a.keys() == b.keys()
        and all(a[i][:2] == b[i][:2] and np.linalg.norm(a[i][2] - b[i][2]) <= reach for i in a)
    )
