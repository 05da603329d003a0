"""Blobs into tracks: Hungarian assignment from frame to frame."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from vgen.toybox.oracle.parse import Blob

COLOUR_COST = 0.3
GATE = 0.45
LONGEST_GAP = 3  # frames


@dataclass(slots=True)
class Track:
    blobs: list[Blob] = field(default_factory=list)

    @property
    def last(self) -> Blob:
        return self.blobs[-1]


def track(blobs: list[Blob], num_frames: int) -> list[Track]:
    """Every blob in exactly one track, tracks in order of their first frame."""
    tracks: list[Track] = []
    for frame in range(num_frames):
        here = [b for b in blobs if b.frame == frame]
        live = [t for t in tracks if frame - t.last.frame <= LONGEST_GAP]
        taken: set[int] = set()
        if here and live:
            cost = np.array([[_cost(t.last, b) for b in here] for t in live])
            for i, j in zip(*linear_sum_assignment(cost), strict=True):
                if cost[i, j] < GATE:
                    live[i].blobs.append(here[j])
                    taken.add(int(j))
        tracks += [Track([b]) for j, b in enumerate(here) if j not in taken]
    return tracks


def _cost(a: Blob, b: Blob) -> float:
    return math.hypot(a.x - b.x, a.y - b.y) + COLOUR_COST * (a.colour is not b.colour)
