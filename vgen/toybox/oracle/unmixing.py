"""How much of which colour covers a pixel: v = a c + (1 - a) b, solved for every colour of the palette."""

from __future__ import annotations

import numpy as np

from vgen.toybox.scenes import RGB, Colour

COLOURS = list(Colour)
PALETTE = np.array([RGB[c] for c in COLOURS], np.float32) / 255
LIGHT = PALETTE + 0.65 * (
    1 - PALETTE
)  # noses; that of a white thing is gray and has no place here: it looks like a tail
WHITE = COLOURS.index(Colour.WHITE)
WHITE_NOSE = PALETTE[WHITE] * 0.62
_TINTED = [i for i in range(len(COLOURS)) if i != WHITE]
_ENDS = np.concatenate([PALETTE, LIGHT[_TINTED]])
_BASE = np.array([*range(len(COLOURS)), *_TINTED])
RAMP = (
    0.44,
    0.60,
)  # tails cover .42 of a pixel; the middle is near one half, where blur does not move an edge
LUMA_WEIGHT = 3.0  # codecs keep brightness and blur hue: edges are where brightness says
_LUMA = np.array([0.299, 0.587, 0.114])
_BLUE, _RED = 0.564 * (np.array([0, 0, 1]) - _LUMA), 0.713 * (np.array([1, 0, 0]) - _LUMA)
_LUMA_FIRST = np.stack([LUMA_WEIGHT * _LUMA, _BLUE, _RED], 1).astype(np.float32)


def unmix(pixels: np.ndarray, backdrop: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share and palette index of the best colour, and whether it is plain rather than a nose's. ``pixels``: n
    3, ``backdrop``: n 3 or 1 3."""
    share, best = _best(pixels - backdrop, _ENDS - backdrop[:, None])
    return share, _BASE[best], best < len(COLOURS)


def share_of(colour: int, pixels: np.ndarray, backdrop: np.ndarray) -> np.ndarray:
    """Share of one colour, its nose included. ``pixels``: h w 3, ``backdrop``: h w 3 or 1 1 3; returns h
    w."""
    ends = PALETTE[[colour]] if colour == WHITE else np.stack([PALETTE[colour], LIGHT[colour]])
    flat, under = pixels.reshape(-1, 3), backdrop.reshape(-1, 3)
    share, _ = _best((flat - under) @ _LUMA_FIRST, (ends - under[:, None]) @ _LUMA_FIRST)
    return share.reshape(pixels.shape[:2])


def _best(d: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares: share and index of the end of the mixing line that passes nearest. ``d``: n 3, ``u``: (n
    or 1) k 3."""
    dot = d @ u[0].T if len(u) == 1 else np.einsum("nc,nkc->nk", d, u)
    square = (u * u).sum(-1)
    share = np.clip(dot / square, 0, 1.1)
    best = (share * (share * square - 2 * dot)).argmin(1)
    return share[np.arange(len(d)), best], best


def relief(share: np.ndarray) -> np.ndarray:
    """Like :func:`body` with its grays kept: where a blurred cross is deep and where it is shallow still
    tells it from a circle."""
    return np.clip((share - 0.35) / 0.4, 0, 1)


def body(share: np.ndarray) -> np.ndarray:
    """Coverage by the opaque body alone: translucent marks vanish, and edges are sharpened alike in pictures
    and templates."""
    return np.clip((share - RAMP[0]) / (RAMP[1] - RAMP[0]), 0, 1)
