"""Where every thing is at every tick: the exact paths of the miniature world."""

from __future__ import annotations

import math

import numpy as np

from vgen.toybox.scenes import DIRECTION, Camera, Motion, Scene, Thing

GROWTH = 1.7  # final over initial radius of a growing thing
TURN = 2 * math.pi / 15  # radians per tick of a rotating or orbiting thing at medium speed
ORBIT_RADIUS = 0.16


def travelled(motion: Motion, ticks: np.ndarray, velocity: float) -> np.ndarray:
    """Distance along the heading at each tick."""
    match motion:
        case Motion.BOUNCE:  # there and back within the canonical clip
            return velocity * 1.6 * (7.5 - np.abs(np.mod(ticks, 15) - 7.5))
        case Motion.ACCELERATE:
            return velocity * ticks**2 / 9
        case Motion.STOP_AND_GO:
            return velocity * 1.5 * (np.minimum(ticks, 5) + np.maximum(ticks - 10, 0))
        case _:
            return velocity * ticks if motion in DIRECTION else np.zeros_like(ticks)


def path(thing: Thing, ticks: np.ndarray) -> np.ndarray:
    """``f 4``: x, y, angle and scale of one thing at each tick, before the camera."""
    out = np.tile(np.array([thing.x, thing.y, 0.0, 1.0]), (len(ticks), 1))
    match thing.motion:
        case Motion.ORBIT_CW | Motion.ORBIT_CCW:
            angle = orbit_angle(thing, ticks)
            out[:, 0] += ORBIT_RADIUS * (np.cos(angle) - math.cos(thing.phase))
            out[:, 1] += ORBIT_RADIUS * (np.sin(angle) - math.sin(thing.phase))
        case Motion.GROW | Motion.SHRINK:
            u = np.clip(ticks / 15, 0, 1) - 0.5
            out[:, 3] = GROWTH ** (u if thing.motion is Motion.GROW else -u)
        case Motion.ROTATE:
            out[:, 2] = TURN * _pace(thing) * ticks
        case _:
            out[:, :2] += travelled(thing.motion, ticks, thing.velocity)[:, None] * np.array(
                thing.direction()
            )
    return out


def orbit_angle(thing: Thing, ticks: np.ndarray) -> np.ndarray:
    """Where an orbiting thing is on its circle; growing angles are clockwise, because y points down."""
    sign = 1.0 if thing.motion is Motion.ORBIT_CW else -1.0
    return thing.phase + sign * TURN * _pace(thing) * ticks


def _pace(thing: Thing) -> float:
    return 0.5 + thing.velocity / 0.034  # slow turns at .76, fast at 1.38 of the medium rate


def ticks_of(scene: Scene) -> np.ndarray:
    return np.arange(scene.num_frames, dtype=float) * scene.stride_ticks


def paths(scene: Scene) -> np.ndarray:
    """``n f 4``: x, y, angle, scale of every thing as the camera sees it."""
    ticks = ticks_of(scene)
    if not scene.things:
        return np.zeros((0, len(ticks), 4))
    out = np.stack([path(thing, ticks) for thing in scene.things])
    for axis in (0, 1):
        out[..., axis] = seen(scene.camera, axis, out[..., axis], ticks)
    out[..., 3] *= scene.camera.zoom**ticks
    return out


def seen(camera: Camera, axis: int, at: np.ndarray, ticks: np.ndarray) -> np.ndarray:
    """Coordinates along x (axis 0) or y (1) of the world, in canvas widths, as the camera sees them at each
    tick."""
    return 0.5 + camera.zoom**ticks * (at - 0.5) - (camera.pan_x, camera.pan_y)[axis] * ticks


def unseen(camera: Camera, axis: int, at: np.ndarray, ticks: np.ndarray) -> np.ndarray:
    """The inverse of :func:`seen`: where in the world lies what the camera sees."""
    return 0.5 + (at - 0.5 + (camera.pan_x, camera.pan_y)[axis] * ticks) / camera.zoom**ticks
