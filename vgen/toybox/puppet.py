"""The articulated figure: seventeen COCO joints, four actions, clothes colours. Pose and appearance are
independent."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable

import numpy as np

from vgen.toybox.scenes import RGB, Action, Thing

SKIN = np.array([235, 190, 150], np.float32) / 255
_UPPER, _LOWER, _TORSO, _HIP, _SHOULDER = (
    0.55,
    0.55,
    0.95,
    0.22,
    0.34,
)  # in puppet radii; the figure is about 3.4 radii tall
LIMBS = ((5, 7), (7, 9), (6, 8), (8, 10), (11, 13), (13, 15), (12, 14), (14, 16))
"""Joint pairs of the eight limbs (COCO order: shoulder-elbow-wrist left, right; hip-knee-ankle left, right).
"""


def joints(thing: Thing, state: np.ndarray, tick: float) -> np.ndarray:
    """``17 2`` joint positions in canvas widths, COCO order."""
    arms, legs, lift, lean = _angles(
        thing.action, thing.phase + 2 * math.pi * tick / 8 * (0.5 + thing.velocity / 0.034)
    )
    x, y, turn, scale = state
    r = thing.radius * scale
    out = np.zeros((17, 2))
    hip, neck = (
        np.array([0.0, 0.35 - lift]),
        np.array([math.sin(lean), -math.cos(lean)]) * _TORSO + [0.0, 0.35 - lift],
    )
    head = neck + np.array([math.sin(lean), -math.cos(lean)]) * 0.36
    out[0], out[1], out[2] = head + [0, 0.02], head + [0.09, -0.06], head + [-0.09, -0.06]
    out[3], out[4] = head + [0.2, 0], head + [-0.2, 0]
    for side, sign in ((0, 1.0), (1, -1.0)):
        shoulder, hip_joint = neck + [sign * _SHOULDER, 0.12], hip + [sign * _HIP, 0.0]
        (a1, a2), (l1, l2) = arms[side], legs[side]
        elbow = shoulder + _UPPER * np.array([sign * math.sin(a1), math.cos(a1)])
        wrist = elbow + _LOWER * np.array([sign * math.sin(a2), math.cos(a2)])
        knee = hip_joint + 0.65 * np.array([sign * math.sin(l1), math.cos(l1)])
        ankle = knee + 0.65 * np.array([sign * math.sin(l2), math.cos(l2)])
        for row, point in zip(
            (5, 7, 9, 11, 13, 15), (shoulder, elbow, wrist, hip_joint, knee, ankle), strict=True
        ):
            out[row + side] = point
    c, s = math.cos(turn), math.sin(turn)
    return out @ np.array([[c, s], [-s, c]]) * r + [x, y]


def layers(thing: Thing, state: np.ndarray, tick: float) -> list:
    """Opaque parts, back to front: torso, limbs, head; each a stencil, its centre, its reach and its
    colour."""
    out = []
    for a, b, half, colour in _parts(thing, state, tick):
        centre = (a + b) / 2
        reach = math.sqrt(_length2(a, b)) / 2 + half
        out.append((_capsule(a, b, half), (float(centre[0]), float(centre[1])), reach, colour))
    return out


def _parts(
    thing: Thing, state: np.ndarray, tick: float
) -> list[tuple[np.ndarray, np.ndarray, float, np.ndarray]]:
    """Capsules from one end to the other, with half their width and their colour."""
    j, r = joints(thing, state, tick), thing.radius * state[3]
    shirt, trousers = (np.asarray(RGB[c], np.float32) / 255 for c in (thing.colour, thing.second))
    neck, hip = j[5:7].mean(0), j[11:13].mean(0)
    parts = [(neck + (hip - neck) * 0.15, hip, 0.34 * r, shirt)]
    for i, (a, b) in enumerate(LIMBS):
        parts.append(
            (
                j[a],
                j[b],
                0.15 * r if i < 4 else 0.18 * r,
                SKIN if i in (1, 3) else shirt if i < 4 else trousers,
            )
        )
    parts.append((j[0], j[0], 0.30 * r, SKIN))
    return parts


def flow(
    thing: Thing,
    states: tuple[np.ndarray, np.ndarray],
    ticks: tuple[float, float],
    gx: np.ndarray,
    gy: np.ndarray,
) -> np.ndarray:
    """``... 2`` in canvas widths: how far the points ``gx gy`` of the figure move from the first state to the
    second. Every part is rigid and goes with its joints; a point belongs to the foremost part that covers it,
    and to the torso where none does."""
    out = np.zeros((*np.broadcast_shapes(gx.shape, gy.shape), 2))
    whole = states[1][3] / states[0][3] * cmath.exp(1j * (states[1][2] - states[0][2]))
    first, second = (_parts(thing, state, tick) for state, tick in zip(states, ticks, strict=True))
    for i, ((a0, b0, half, _), (a1, b1, _, _)) in enumerate(zip(first, second, strict=True)):
        covers = _capsule(a0, b0, half)(gx, gy)[..., None] if i else np.True_
        along = complex(*(b0 - a0))
        to = complex(*a1) + (complex(*(b1 - a1)) / along if along else whole) * (
            (gx - a0[0]) + 1j * (gy - a0[1])
        )
        out = np.where(covers, np.stack([to.real - gx, to.imag - gy], -1), out)
    return out


def _angles(action: Action, phase: float) -> tuple:
    """Arm (upper, lower) and leg (upper, lower) angles from hanging, outwards positive; lift of the hips;
    lean of the torso."""
    s, c = math.sin(phase), math.cos(phase)
    match action:
        case Action.WALK:
            arms = (0.3 + 0.5 * s, 0.5 + 0.5 * s), (0.3 - 0.5 * s, 0.5 - 0.5 * s)
            return arms, ((-0.4 * s, -0.1 - 0.3 * s), (0.4 * s, -0.1 + 0.3 * s)), 0.03 * c, 0.06
        case Action.WAVE:
            return ((2.3, 2.7 + 0.6 * s), (0.2, 0.3)), ((0.1, 0.1), (0.1, 0.1)), 0.0, 0.0
        case Action.JUMP:
            up = max(s, 0.0)
            return (
                ((0.4 + 1.8 * up, 0.5 + 2.0 * up),) * 2,
                ((0.2 + 0.4 * (1 - up) * (s < 0), -0.2 * (s < 0)),) * 2,
                0.45 * up,
                0.0,
            )
        case Action.DANCE:
            arms = (1.3 + 0.9 * s, 2.0 + 0.8 * c), (1.3 - 0.9 * s, 2.0 - 0.8 * c)
            return arms, ((0.25 + 0.25 * s, 0.05), (0.25 - 0.25 * s, 0.05)), 0.06 * c, 0.28 * s


def _length2(a: np.ndarray, b: np.ndarray) -> float:
    ab = b - a
    return float(ab @ ab) or 1e-9


def _capsule(a: np.ndarray, b: np.ndarray, half: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    ab, length2 = b - a, _length2(a, b)

    def stencil(gx: np.ndarray, gy: np.ndarray) -> np.ndarray:
        u = np.clip(((gx - a[0]) * ab[0] + (gy - a[1]) * ab[1]) / length2, 0, 1)
        return (gx - a[0] - u * ab[0]) ** 2 + (gy - a[1] - u * ab[1]) ** 2 <= half * half

    return stencil
