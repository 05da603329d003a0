"""What lies behind the things: a solid as it was really painted, or one of the textures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np

from vgen.toybox.renderer import _ground
from vgen.toybox.scenes import GROUND_RGB, SOLIDS, Ground, Scene

FARTHEST_SOLID = (
    0.15  # a median farther than this (RGB, euclidean) from every solid is no ground of this world
)
WORST_FIT = 0.05  # mean clipped error per channel above which no ground explains the picture
_CLIP = 0.15  # what a thing in front may cost a pixel


@dataclass(frozen=True, slots=True)
class Backdrop:
    """``ground`` is None where the picture has none of this world; ``colours`` is float32 1 1 3 or h w 3,
    what unmixing starts from."""

    ground: Ground | None
    colours: np.ndarray


def read_backdrop(video: np.ndarray) -> Backdrop:
    """``video`` float32 f h w 3. Solids are taken as observed (a decoder may shift them), textures as
    drawn."""
    still = np.median(video[:, ::2, ::2], axis=0)
    observed = np.median(still.reshape(-1, 3), axis=0).astype(np.float32)
    distance = {g: float(np.linalg.norm(np.asarray(GROUND_RGB[g]) / 255 - observed)) for g in SOLIDS}
    nearest = min(SOLIDS, key=distance.__getitem__)
    best = _misfit(still, observed) if distance[nearest] <= FARTHEST_SOLID else np.inf
    choice = Backdrop(nearest, observed[None, None])
    if best > 0.006:  # a plain solid under things and marks fits far better: textures need not be tried
        textures, coarse = _textures(video.shape[1])
        misfits = np.minimum(np.abs(coarse - still), _CLIP).mean((1, 2, 3))
        if (misfit := float(misfits.min())) < best:
            best, choice = misfit, Backdrop(*textures[int(misfits.argmin())])
    return choice if best <= WORST_FIT else Backdrop(None, observed[None, None])


def _misfit(still: np.ndarray, picture: np.ndarray) -> float:
    return float(np.minimum(np.abs(still - picture), _CLIP).mean())


@lru_cache(maxsize=4)
def _textures(size: int) -> tuple[list[tuple[Ground, np.ndarray]], np.ndarray]:
    """Every texture h w 3, and every second pixel of all of them, n h/2 w/2 3."""
    kinds = (Ground.GRADIENT, Ground.CHECKER, Ground.STRIPES)
    drawn = [
        (k, _ground(Scene(things=(), ground=k, inks=inks), 0.0, size))
        for k in kinds
        for inks in permutations(SOLIDS, 2)
    ]
    return drawn, np.stack([picture[::2, ::2] for _, picture in drawn])
