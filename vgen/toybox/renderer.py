"""One renderer: scene in, video and exact ground truth out. Float, supersampled four times, then uint8."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vgen.toybox import puppet
from vgen.toybox.glyphs import REACH, SQUARE, edge_distance, inside
from vgen.toybox.motion import orbit_angle, paths, seen, ticks_of, unseen
from vgen.toybox.scenes import (
    GROUND_RGB,
    HEADED,
    RGB,
    Camera,
    Colour,
    Ground,
    Kind,
    Motion,
    Scene,
    Shape,
    Thing,
)

SUPERSAMPLE = 4
MARK_ALPHA = 0.42  # tails and ticks are the thing's own colour, mixed this far into the ground
IDENTICON_ALPHA = 0.25
Stencil = Callable[[np.ndarray, np.ndarray], np.ndarray]
Layer = tuple[Stencil, tuple[float, float], float, np.ndarray]
"""What is painted opaque: a stencil, its centre and its reach in canvas widths, its colour."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """``video`` uint8 f h w 3; ``masks`` float f n h w (visible share of each pixel); ``states`` n f 4 (x, y,
    angle, scale); ``keypoints`` n f 17 2 in canvas widths (NaN where the thing is no puppet). Index n is also
    depth order, back to front."""

    scene: Scene
    video: np.ndarray
    masks: np.ndarray
    states: np.ndarray
    keypoints: np.ndarray

    def edges(self) -> np.ndarray:
        """uint8 f h w: boundaries of the visible masks, 255 on the edge."""
        label = np.where(
            self.masks.max(1, initial=0) > 0.5, self.masks.argmax(1) + 1 if self.masks.shape[1] else 0, 0
        )
        out = np.zeros(label.shape, bool)
        out[:, :-1] |= label[:, 1:] != label[:, :-1]
        out[:, :, :-1] |= label[:, :, 1:] != label[:, :, :-1]
        return out.astype(np.uint8) * 255

    def flow(self) -> np.ndarray:
        """float32 f-1 h w 2: exact forward flow in pixels of what is visible. A puppet's parts go each their
        own way; the ground, and the translucent marks on it, go with the camera: nowhere where it rests."""
        size, ticks = self.video.shape[1], ticks_of(self.scene)
        grid = (np.arange(size) + 0.5) / size
        gx, gy = np.meshgrid(grid, grid)
        out = np.zeros((len(self.video) - 1, size, size, 2), np.float32)
        for k in range(len(out)):
            then = ticks[k], ticks[k + 1]
            out[k] = _flow_of_ground(self.scene.camera, then, gx, gy) * size
            for i, thing in enumerate(self.scene.things):
                states = self.states[i, k], self.states[i, k + 1]
                moved = (
                    puppet.flow(thing, states, then, gx, gy)
                    if thing.kind is Kind.PUPPET
                    else _flow_of_body(states, gx, gy)
                )
                out[k] = np.where((self.masks[k, i] > 0.5)[..., None], moved * size, out[k])
        return out


def _flow_of_ground(camera: Camera, ticks: tuple[float, float], gx: np.ndarray, gy: np.ndarray) -> np.ndarray:
    before, after = np.array(ticks)
    return np.stack(
        [seen(camera, i, unseen(camera, i, at, before), after) - at for i, at in enumerate((gx, gy))], -1
    )


def _flow_of_body(states: tuple[np.ndarray, np.ndarray], gx: np.ndarray, gy: np.ndarray) -> np.ndarray:
    (x0, y0, a0, s0), (x1, y1, a1, s1) = states
    c, s = math.cos(a1 - a0) * s1 / s0, math.sin(a1 - a0) * s1 / s0
    dx, dy = gx - x0, gy - y0
    return np.stack([x1 + c * dx - s * dy - gx, y1 + s * dx + c * dy - gy], -1)


def render(scene: Scene, size_px: int = 64) -> Rendered:
    """Draw ``scene`` on a square canvas of ``size_px``."""
    states, ticks = paths(scene), ticks_of(scene)
    num_things, num_frames = len(scene.things), scene.num_frames
    video = np.empty((num_frames, size_px, size_px, 3), np.float32)
    masks = np.zeros((num_frames, num_things, size_px, size_px), np.float32)
    keypoints = np.full((num_things, num_frames, 17, 2), np.nan)
    for k in range(num_frames):
        canvas = _ground(scene, ticks[k], size_px)
        if scene.cues:
            for i, thing in enumerate(scene.things):
                for stencil, centre, reach in _marks(thing, states[i, k], ticks[k]):
                    _paint(canvas, stencil, centre, reach, *_mark_ink(thing))
        for i, thing in enumerate(scene.things):
            layers = _layers(thing, states[i, k], ticks[k], scene.cues)
            if thing.kind is Kind.PUPPET:
                keypoints[i, k] = puppet.joints(thing, states[i, k], ticks[k])
            alphas = [
                _paint(canvas, stencil, centre, reach, colour, 1.0)
                for stencil, centre, reach, colour in layers
            ]
            masks[k, i] = _union(layers, size_px) if thing.kind is Kind.PUPPET else alphas[0]
            masks[k, :i] *= 1 - masks[k, i]
        video[k] = canvas
    return Rendered(scene, (video * 255 + 0.5).astype(np.uint8), masks, states, keypoints)


def _rgb(colour: Colour) -> np.ndarray:
    return np.asarray(RGB[colour], np.float32) / 255


def _paint(
    canvas: np.ndarray,
    stencil: Stencil,
    centre: tuple[float, float],
    reach: float,
    colour: np.ndarray,
    opacity: float,
) -> np.ndarray:
    """Composite one stencil within its bounding box; returns its coverage, h w."""
    size = len(canvas)
    coverage = np.zeros((size, size), np.float32)
    x0, x1 = (
        int(np.clip(f, 0, size))
        for f in (math.floor((centre[0] - reach) * size), math.ceil((centre[0] + reach) * size))
    )
    y0, y1 = (
        int(np.clip(f, 0, size))
        for f in (math.floor((centre[1] - reach) * size), math.ceil((centre[1] + reach) * size))
    )
    if x0 >= x1 or y0 >= y1:
        return coverage
    n = SUPERSAMPLE
    gx = ((np.arange(x0 * n, x1 * n) + 0.5) / (size * n))[None, :]
    gy = ((np.arange(y0 * n, y1 * n) + 0.5) / (size * n))[:, None]
    hit = np.broadcast_to(stencil(gx, gy), (gy.size, gx.size)).astype(np.float32)
    box = hit.reshape(y1 - y0, n, x1 - x0, n).mean((1, 3))
    coverage[y0:y1, x0:x1] = box
    patch = canvas[y0:y1, x0:x1]
    patch += (box * opacity)[..., None] * (colour - patch)
    return coverage


def _union(layers: list[Layer], size: int) -> np.ndarray:
    """Share of each pixel that any of the layers covers, h w."""
    boxes = [(x - reach, y - reach, x + reach, y + reach) for _, (x, y), reach, _ in layers]
    x0, y0 = (min(box[axis] for box in boxes) for axis in (0, 1))
    x1, y1 = (max(box[axis] for box in boxes) for axis in (2, 3))

    def any_of(gx: np.ndarray, gy: np.ndarray) -> np.ndarray:
        return np.logical_or.reduce([stencil(gx, gy) for stencil, *_ in layers])

    blank = np.zeros((size, size, 3), np.float32)
    return _paint(
        blank, any_of, ((x0 + x1) / 2, (y0 + y1) / 2), max(x1 - x0, y1 - y0) / 2, np.ones(3, np.float32), 1.0
    )


def _ground(scene: Scene, tick: float, size: int) -> np.ndarray:
    if scene.ground in GROUND_RGB:
        return np.tile(np.asarray(GROUND_RGB[scene.ground], np.float32) / 255, (size, size, 1))
    a, b = (np.asarray(GROUND_RGB[ink], np.float32) / 255 for ink in scene.inks)
    grid, now = (np.arange(size) + 0.5) / size, np.array(tick)
    gx, gy = unseen(scene.camera, 0, grid[None, :], now), unseen(scene.camera, 1, grid[:, None], now)
    match scene.ground:
        case Ground.GRADIENT:
            mix = np.clip(gy, 0, 1) + 0 * gx
        case Ground.CHECKER:
            mix = np.mod(np.floor(gx * 4) + np.floor(gy * 4), 2)
        case _:
            mix = np.mod(np.floor(gx * 8), 2) + 0 * gy
    return (a + mix[..., None] * (b - a)).astype(np.float32)


def _layers(thing: Thing, state: np.ndarray, tick: float, cues: bool) -> list[Layer]:
    """Opaque parts of a thing, body first: stencil, centre, reach, colour."""
    x, y, angle, scale = state
    r = thing.radius * scale
    match thing.kind:
        case Kind.PUPPET:
            return puppet.layers(thing, state, tick)
        case Kind.IDENTICON:
            side = r * SQUARE
            box = _rotated(lambda u, v: (np.abs(u) <= side) & (np.abs(v) <= side), x, y, angle)
            bits = np.array([(thing.code >> i) & 1 for i in range(16)], bool).reshape(4, 4)

            def coded(u: np.ndarray, v: np.ndarray) -> np.ndarray:
                column, row = (np.clip(((w / side + 1) * 2).astype(int), 0, 3) for w in (u, v))
                return (np.abs(u) <= side) & (np.abs(v) <= side) & bits[row, column]

            return [
                (box, (x, y), side * 1.5, _rgb(thing.second)),
                (_rotated(coded, x, y, angle), (x, y), side * 1.5, _rgb(thing.colour)),
            ]
    body = _rotated(lambda u, v: inside(thing.shape, u / r, v / r), x, y, angle)
    parts = [(body, (x, y), r * REACH[thing.shape], _rgb(thing.colour))]
    if cues:
        parts += _nose(thing, body, state, tick)
    return parts


def _rotated(stencil: Stencil, x: float, y: float, angle: float) -> Stencil:
    c, s = math.cos(angle), math.sin(angle)
    return lambda gx, gy: stencil(c * (gx - x) + s * (gy - y), -s * (gx - x) + c * (gy - y))


def _heading(thing: Thing, tick: float) -> tuple[float, float] | None:
    """Unit vector of travel through the world, or None for things that stay where they are. The camera does
    not enter: its travel is not the thing's."""
    if thing.motion in HEADED:
        return thing.direction()
    if thing.motion in (Motion.ORBIT_CW, Motion.ORBIT_CCW):
        angle, sign = (
            float(orbit_angle(thing, np.array(tick))),
            1.0 if thing.motion is Motion.ORBIT_CW else -1.0,
        )
        return (-sign * math.sin(angle), sign * math.cos(angle))
    return None


def _nose(thing: Thing, body: Stencil, state: np.ndarray, tick: float) -> list[Layer]:
    """A light patch within the body: at the leading edge of what travels, in the middle of what grows, at the
    rim of what turns; a dark one in the middle of what shrinks. The hue stays the thing's own."""
    x, y, angle, scale = state
    r, colour = thing.radius * scale, _rgb(thing.colour)
    light = colour + 0.65 * (1 - colour) if thing.colour is not Colour.WHITE else colour * 0.62
    at, size = None, 0.38 * r
    if (heading := _heading(thing, tick)) is not None:
        reach = edge_distance(thing.shape, *heading) * r - 0.30 * r
        at = (x + heading[0] * reach, y + heading[1] * reach)
    elif thing.motion is Motion.ROTATE:
        reach = edge_distance(thing.shape, 0.0, -1.0) * r - 0.30 * r
        at = (x + math.sin(angle) * reach, y - math.cos(angle) * reach)
    elif thing.motion in (Motion.GROW, Motion.SHRINK):
        at, size = (x, y), 0.45 * r
        light = light if thing.motion is Motion.GROW else colour * 0.45
    if at is None:
        return []
    nx, ny = at
    return [
        (
            lambda gx, gy: ((gx - nx) ** 2 + (gy - ny) ** 2 <= size * size) & body(gx, gy),
            (nx, ny),
            size,
            light,
        )
    ]


def _mark_ink(thing: Thing) -> tuple[np.ndarray, float]:
    """Colour and opacity of the translucent marks. An identicon has no nose, which would hide a cell of its
    code: its marks are dark where it shrinks, and faint, so that under noise they are not taken for the
    sprite."""
    if thing.kind is not Kind.IDENTICON:
        return _rgb(thing.colour), MARK_ALPHA
    return _rgb(thing.colour) * (0.45 if thing.motion is Motion.SHRINK else 1.0), IDENTICON_ALPHA


def _marks(thing: Thing, state: np.ndarray, tick: float) -> list[tuple[Stencil, tuple[float, float], float]]:
    """Translucent marks beneath the bodies: a tail as long and as wide as the speed behind what travels,
    dashed, widening or on both sides according to the kind of travel; four ticks around what grows, shrinks
    or turns. A puppet's pose says what it does."""
    if thing.kind is Kind.PUPPET or thing.motion is Motion.STATIC:
        return []
    x, y, angle, scale = state
    r = thing.radius * scale
    if (heading := _heading(thing, tick)) is not None:
        length, width = 10 * thing.velocity * scale, (0.1 + 19 * thing.velocity) * r
        tails = [_tail(thing, x, y, heading, r, length, width)]
        if thing.motion is Motion.BOUNCE:
            tails.append(_tail(thing, x, y, (-heading[0], -heading[1]), r, length, width))
        return tails
    base = angle if thing.motion is Motion.ROTATE else 0.0
    spokes = 2 if thing.motion is Motion.ROTATE else 4
    out = []
    for i in range(spokes):
        a = base + 2 * math.pi * i / spokes + math.pi / 4
        out.append(_tail(thing, x, y, (-math.cos(a), -math.sin(a)), r, 0.05, 0.25 * r))
    return out


def _tail(
    thing: Thing, x: float, y: float, heading: tuple[float, float], r: float, length: float, width: float
) -> tuple[Stencil, tuple[float, float], float]:
    hx, hy = heading
    shape = Shape.SQUARE if thing.kind is Kind.IDENTICON else thing.shape
    start = edge_distance(shape, -hx, -hy) * r if shape is not Shape.RING else 1.2 * r

    def stencil(gx: np.ndarray, gy: np.ndarray) -> np.ndarray:
        along = -(hx * (gx - x) + hy * (gy - y))  # distance behind the centre
        across = np.abs(-hy * (gx - x) + hx * (gy - y))
        behind = (along - start) / length
        half = width * (0.4 + 0.9 * behind) if thing.motion is Motion.ACCELERATE else width
        hit = (along >= 0.75 * start) & (behind <= 1) & (across <= half)
        if thing.motion is Motion.STOP_AND_GO:
            hit &= (behind < 0.3) | (behind > 0.65)
        return hit

    return stencil, (x, y), start + length + width
