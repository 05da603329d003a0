"""Silhouettes: is a point inside the shape? All six have the area of a circle of radius 1 and their centroid
at the origin."""

from __future__ import annotations

import math

import numpy as np

from vgen.toybox.scenes import Shape

REACH = {
    Shape.CIRCLE: 1.0,
    Shape.SQUARE: 1.2534,
    Shape.TRIANGLE: 1.5551,
    Shape.CROSS: 1.2304,
    Shape.STAR: 1.462,
    Shape.RING: 1.25,
}
"""Distance of the farthest point from the centroid, in equal-area radii."""
SQUARE = math.sqrt(math.pi) / 2  # half the side of the square of area pi
_HEIGHT = math.sqrt(math.pi * math.sqrt(3))  # of the equilateral triangle with area pi
_ARM, _HALF = 1.1595, 0.4116  # cross: 8*arm*half - 4*half^2 = pi
_OUTER, _INNER = 1.462, 0.731  # five-pointed star: 5 * outer * inner * sin(36 deg) = pi
_RING_OUT, _RING_IN = 1.25, 0.75


def inside(shape: Shape, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Boolean mask of the unit shape at the points ``x y`` (any broadcastable shape; y points down)."""
    match shape:
        case Shape.CIRCLE:
            return x * x + y * y <= 1
        case Shape.SQUARE:
            return (np.abs(x) <= SQUARE) & (np.abs(y) <= SQUARE)
        case Shape.TRIANGLE:
            down = y + _HEIGHT * 2 / 3
            return (down >= 0) & (down <= _HEIGHT) & (np.abs(x) <= down / math.sqrt(3))
        case Shape.CROSS:
            return ((np.abs(x) <= _ARM) & (np.abs(y) <= _HALF)) | ((np.abs(x) <= _HALF) & (np.abs(y) <= _ARM))
        case Shape.RING:
            r2 = x * x + y * y
            return (r2 <= _RING_OUT**2) & (r2 >= _RING_IN**2)
        case Shape.STAR:
            return _star(x, y)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Fold the plane into one of the ten congruent wedges; the edge there is a straight line from tip to
    notch."""
    wedge = math.pi / 5
    angle = np.mod(np.arctan2(x, -y), 2 * wedge)
    angle = np.minimum(angle, 2 * wedge - angle)
    r = np.hypot(x, y)
    px, py = r * np.cos(angle), r * np.sin(angle)
    nx, ny = _INNER * math.cos(wedge), _INNER * math.sin(wedge)
    return (px - _OUTER) * ny - py * (nx - _OUTER) <= 0


def edge_distance(shape: Shape, dx: float, dy: float) -> float:
    """How far the silhouette reaches along the unit direction ``dx dy``."""
    s = np.linspace(0, 1.6, 161)
    hit = inside(shape, s * dx, s * dy)
    return float(s[hit][-1])
