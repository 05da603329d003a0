"""Do neighbouring frames show the same world? Needs no caption, so it can compare motion modules before they obey one.

``pixel_agreement`` (1 - mean |difference|, what public suites call temporal flickering) rewards frozen frames: they score 1. ``coherence``
asks instead whether the oracle reads the same things twice: it is blind to motion, gives nothing for an empty picture and little for
flicker. Frozen frames score 1 there too, so both stand beside motion accuracy and never replace it.
"""

from __future__ import annotations

import numpy as np

from vgen.metrics.metric import Metric, Numbers
from vgen.toybox.oracle import Facts

METRIC = Metric("toybox/coherence", 2, "share of neighbouring frames that agree in count, colours, shapes and ground")
GROUND_SHIFT = 0.04  # of full scale: a fifth of the distance between the nearest two grounds is still the same ground


def coherence(facts: Facts, video: np.ndarray) -> Numbers:
    """``video`` uint8 f h w 3. Both numbers lie in 0..1; a still has neither."""
    if len(video) < 2:
        return {"coherence": None, "pixel_agreement": None}
    shown = [_shown(facts, frame) for frame in range(facts.num_frames)]
    ground = np.median(video[:, ::2, ::2].reshape(len(video), -1, 3), axis=1) / 255
    steady = np.abs(np.diff(ground, axis=0)).max(-1) < GROUND_SHIFT
    counted = facts.counts[1:] == facts.counts[:-1]
    same = [bool(steady[i] and counted[i] and shown[i] and shown[i] == shown[i + 1]) for i in range(len(steady))]
    change = np.abs(np.diff(video.astype(np.int16), axis=0)).mean() / 255
    return {"coherence": float(np.mean(same)), "pixel_agreement": 1 - float(change)}


def _shown(facts: Facts, frame: int) -> dict[int, tuple]:
    """Colour and shape in one frame by track."""
    out = {}
    for i, thing in enumerate(facts.things):
        at = np.flatnonzero(thing.frames == frame)
        if len(at):
            out[i] = (thing.colours[at[0]], thing.shapes[at[0]])
    return out
