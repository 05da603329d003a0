"""Are the frames that a method was given met, and do those between go their way?

A clip that repeats a given frame meets it and goes nowhere; one drawn from the caption alone moves and meets
none. HELD, the headline, needs both.
"""

from __future__ import annotations

import numpy as np

from vgen.metrics.editing import ASTRAY, NOMINAL_DB, WORST_DB, harmonic
from vgen.metrics.metric import Metric, Numbers
from vgen.metrics.psnr import psnr
from vgen.metrics.trajectory import distances
from vgen.toybox.oracle import Facts
from vgen.toybox.scenes import Scene

METRIC = Metric(
    "toybox/given-frames", 1, "HELD: harmonic mean of given frames met and of the way of things between them"
)


def frames_held(
    video: np.ndarray,
    truth: np.ndarray,
    facts: Facts,
    scene: Scene,
    places: tuple[int, ...],
    reconstruction: np.ndarray | None = None,
) -> Numbers:
    """Videos uint8 f h w 3; ``places`` are the numbers of the frames that were given, from ``truth``.
    ``reconstruction`` is the truth through encoder and decoder, whose loss is forgiven.

    ``psnr_given``: PSNR of the given frames in dB, ``psnr_codec`` that of the reconstruction (None if it was
    not told); ``met``: the first, 0 at 15 dB and 1 at the second (without it at 35 dB); ``between``: exp(-the
    mean distance of things from their path in the other frames / .05); ``held``: harmonic mean of both.
    """
    given = list(places)
    db = psnr(truth[given], video[given])
    codec_db = None if reconstruction is None else psnr(truth[given], reconstruction[given])
    best = NOMINAL_DB if codec_db is None else max(codec_db, WORST_DB + 1)
    met = float(np.clip((db - WORST_DB) / (best - WORST_DB), 0, 1))
    others = [i for i in range(len(video)) if i not in places]
    between = float(np.exp(-distances(facts, scene)[:, others].mean() / ASTRAY))
    return {
        "psnr_given": db,
        "psnr_codec": codec_db,
        "met": met,
        "between": between,
        "held": harmonic((met, between)),
    }
