"""A second reader that shares nothing with the first: no unmixing, no components, no tracker. It draws every
colour, shape and size of the world at every place (sums of products by FFT) and keeps what explains most of
the picture; a motion is the one of the grid of motions and speeds that passes nearest to the places found.

Where the two readers disagree, one of them is fooled: that list is worth looking at.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import fft

from vgen.toybox.glyphs import inside
from vgen.toybox.oracle.facts import Facts
from vgen.toybox.scenes import (
    DIRECTION,
    GROUND_RGB,
    RADIUS,
    RGB,
    SOLIDS,
    SPEED,
    Colour,
    Ground,
    Motion,
    Shape,
    Size,
)

MOST_THINGS = 4
LEAST_GAIN = 0.6  # of a template's own energy that it must take off the picture; a perfect template takes all
NUM_FRAMES = 4  # frames that are looked at, spread over the clip
_SCALES = (0.975, 1.025)
_COLOURS, _SHAPES, _SIZES = list(Colour), list(Shape), list(Size)
_PALETTE = np.array([RGB[c] for c in _COLOURS], np.float32) / 255


@dataclass(frozen=True, slots=True)
class Found:
    """One thing: attributes by majority over the frames, motion from the grid (None in a still)."""

    colour: Colour
    shape: Shape
    size: Size
    motion: Motion | None


@dataclass(frozen=True, slots=True)
class Audit:
    ground: Ground
    things: list[Found]


@dataclass(frozen=True, slots=True)
class Disagreement:
    """``what`` the readers differ in, with what either read: plain words for a report."""

    what: str
    first: str
    second: str


def audit(video: np.ndarray, stride_ticks: int = 1) -> Audit:
    """``video`` uint8 f h w 3 on a solid ground. Raises ValueError for other arrays."""
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or 0 in video.shape:
        raise ValueError(
            f"the second reader reads uint8 f h w 3, got {video.dtype} {video.shape}; round and clip the "
            "video first"
        )
    frames = np.unique(np.linspace(0, len(video) - 1, min(NUM_FRAMES, len(video))).round().astype(int))
    pixels = video[frames].astype(np.float32) / 255
    ground = min(
        SOLIDS,
        key=lambda g: float(np.abs(pixels - np.array(GROUND_RGB[g]) / 255).sum(-1).clip(0, 0.5).mean()),
    )
    found = [_things(frame, np.asarray(GROUND_RGB[ground], np.float32) / 255) for frame in pixels]
    by_colour: dict[Colour, list[tuple[int, Shape, Size, np.ndarray]]] = {}
    for tick, things in zip(frames * stride_ticks, found, strict=True):
        for colour, shape, size, at in things:
            by_colour.setdefault(colour, []).append((int(tick), shape, size, at))
    lasting = {c: seen for c, seen in by_colour.items() if len(seen) > len(frames) / 2}
    return Audit(ground, [_found(c, seen, len(video) > 1) for c, seen in lasting.items()])


def _found(colour: Colour, seen: list[tuple[int, Shape, Size, np.ndarray]], moves: bool) -> Found:
    ticks, shapes, sizes, places = zip(*seen, strict=True)
    shape, size = Counter[Shape](shapes).most_common(1)[0][0], Counter[Size](sizes).most_common(1)[0][0]
    return Found(colour, shape, size, _motion(np.array(ticks, float), np.stack(places)) if moves else None)


def _motion(ticks: np.ndarray, places: np.ndarray) -> Motion:
    """Nearest path of the grid, wherever it starts."""
    grid = {(Motion.STATIC, None): np.zeros(2)} | {
        (m, s): SPEED[s] * np.array(DIRECTION[m]) for m in DIRECTION for s in SPEED
    }
    centred = places - places.mean(0)
    return min(
        grid, key=lambda k: float(np.square(centred - (ticks - ticks.mean())[:, None] * grid[k]).sum())
    )[0]


def _things(frame: np.ndarray, under: np.ndarray) -> list[tuple[Colour, Shape, Size, np.ndarray]]:
    """Colour, shape, size and place (canvas widths) of what explains most, best first, one after the
    other."""
    size_px = len(frame)
    left, out = frame - under, []
    spectra, energies, covers = _templates(size_px)
    inks = _PALETTE - under
    for _ in range(MOST_THINGS):
        products = fft.rfft2(np.einsum("hwc,kc->khw", left, inks), workers=1)
        gain = 2 * fft.irfft2(products[:, None] * spectra, s=(size_px, size_px), workers=1)
        gain -= (inks**2).sum(-1)[:, None, None, None] * energies[None, :, None, None]
        k, j, y, x = np.unravel_index(gain.argmax(), gain.shape)
        if gain[k, j, y, x] < LEAST_GAIN * (inks[k] ** 2).sum() * energies[j]:
            break
        cover = np.roll(covers[j], (y, x), (0, 1))
        shape, size = divmod(j // len(_SCALES), len(_SIZES))
        out.append((_COLOURS[k], _SHAPES[shape], _SIZES[size], np.array([x + 0.5, y + 0.5]) / size_px))
        # what lies beneath is explained, nose and all: nothing opaque of this world overlaps
        left = left * (1 - np.clip(2 * cover, 0, 1))[..., None]
    return out


@cache
def _templates(size_px: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every shape, size and scale: conjugate spectrum j h w', squared sum j, and cover j h w around pixel
    0 0 (wrapping)."""
    sub = (np.arange(4) + 0.5) / 4 - 0.5
    axis = np.fft.fftfreq(size_px, 1 / size_px)
    fine = (axis[:, None] + sub).ravel() / size_px
    covers = []
    for shape in _SHAPES:
        for size in _SIZES:
            for scale in _SCALES:
                r = RADIUS[size] * scale
                hit = inside(shape, fine[None, :] / r, fine[:, None] / r)
                covers.append(hit.reshape(size_px, 4, size_px, 4).mean((1, 3)))
    stacked = np.stack(covers).astype(np.float32)
    return np.conj(fft.rfft2(stacked)), (stacked**2).sum((1, 2)), stacked


def disagreements(first: Facts, second: Audit) -> list[Disagreement]:
    """Empty where both readers see the same ground and the same things."""
    out = []
    if first.ground is not second.ground:
        out.append(
            Disagreement("ground", first.ground.value if first.ground else "none", second.ground.value)
        )
    seen, drawn = {s.colour: s for s in first.things}, {s.colour: s for s in second.things}
    for colour in [c for c in Colour if c in seen or c in drawn]:
        a, b = seen.get(colour), drawn.get(colour)
        if a is None or b is None:
            out.append(
                Disagreement(
                    f"a {colour.value} thing", "there" if a else "not there", "there" if b else "not there"
                )
            )
            continue
        for what in ("shape", "size", "motion"):
            x, y = getattr(a, what), getattr(b, what)
            if x is not y:
                out.append(
                    Disagreement(
                        f"{what} of the {colour.value} thing",
                        *(str(v.value) if v else "none" for v in (x, y)),
                    )
                )
    return out
