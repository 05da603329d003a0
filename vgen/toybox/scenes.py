"""What a scene of the miniature world is: typed values, a seed and a generator version, nothing else.

Lengths are in canvas widths, angles in radians, time in ticks (one tick is one frame at stride 1). ``y``
points down.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

GENERATOR_VERSION = 3
TICKS = 16  # the canonical clip; motion classes are tuned so that they can be told apart within it
TICKS_PER_SECOND = 8.0  # as ``vgen prepare`` writes clips of the world unless it is told another rate
LONGEST = 2 * TICKS  # of clips to be evaluated on: what is slow enough stays on the canvas


def check_length(num_frames: int, stride_ticks: int = 1, most: int = TICKS) -> None:
    """Raises ValueError for a clip that would show a picture which its things have left."""
    if num_frames < 1 or stride_ticks < 1 or (num_frames - 1) * stride_ticks > most - 1:
        stride = "" if stride_ticks == 1 else f" with stride_ticks={stride_ticks}"
        raise ValueError(
            f"a clip of the toybox must have at least one frame and end within {most - 1} ticks, where "
            "things leave the canvas, got "
            f"num_frames={num_frames}{stride}; the usual is num_frames={TICKS}, one tick a frame"
        )


class Colour(Enum):
    RED = "red"
    GREEN = "green"
    BLUE = "blue"
    YELLOW = "yellow"
    MAGENTA = "magenta"
    CYAN = "cyan"
    ORANGE = "orange"
    WHITE = "white"


class Shape(Enum):
    CIRCLE = "circle"
    SQUARE = "square"
    TRIANGLE = "triangle"
    CROSS = "cross"
    STAR = "star"
    RING = "ring"


class Size(Enum):
    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


class Speed(Enum):
    SLOW = "slow"
    MEDIUM = "medium"
    FAST = "fast"


class Motion(Enum):
    STATIC = "static"
    LEFT = "left"
    RIGHT = "right"
    UP = "up"
    DOWN = "down"
    UP_LEFT = "up-left"
    UP_RIGHT = "up-right"
    DOWN_LEFT = "down-left"
    DOWN_RIGHT = "down-right"
    BOUNCE = "bounce"
    ORBIT_CW = "orbit-cw"
    ORBIT_CCW = "orbit-ccw"
    ACCELERATE = "accelerate"
    STOP_AND_GO = "stop-and-go"
    GROW = "grow"
    SHRINK = "shrink"
    ROTATE = "rotate"


class Ground(Enum):
    BLACK = "black"
    GRAY = "gray"
    NAVY = "navy"
    BROWN = "brown"
    GRADIENT = "gradient"
    CHECKER = "checker"
    STRIPES = "stripes"


class Relation(Enum):
    ABOVE = "above"
    LEFT_OF = "left-of"
    IN_FRONT_OF = "in-front-of"


class Kind(Enum):
    SHAPE = "shape"
    IDENTICON = "identicon"
    PUPPET = "puppet"


class Action(Enum):
    WALK = "walking"
    WAVE = "waving"
    JUMP = "jumping"
    DANCE = "dancing"


RGB = {
    Colour.RED: (220, 40, 40),
    Colour.GREEN: (40, 170, 60),
    Colour.BLUE: (50, 80, 220),
    Colour.YELLOW: (235, 215, 50),
    Colour.MAGENTA: (205, 60, 200),
    Colour.CYAN: (60, 200, 210),
    Colour.ORANGE: (240, 140, 40),
    Colour.WHITE: (240, 240, 240),
}
GROUND_RGB = {
    Ground.BLACK: (12, 12, 12),
    Ground.GRAY: (110, 110, 110),
    Ground.NAVY: (16, 20, 60),
    Ground.BROWN: (80, 55, 40),
}
SOLIDS = tuple(GROUND_RGB)
RADIUS = {Size.SMALL: 0.090, Size.MEDIUM: 0.120, Size.LARGE: 0.158}
SPEED = {Speed.SLOW: 0.009, Speed.MEDIUM: 0.017, Speed.FAST: 0.030}  # canvas widths per tick
_H = math.sqrt(0.5)
DIRECTION = {
    Motion.LEFT: (-1.0, 0.0),
    Motion.RIGHT: (1.0, 0.0),
    Motion.UP: (0.0, -1.0),
    Motion.DOWN: (0.0, 1.0),
    Motion.UP_LEFT: (-_H, -_H),
    Motion.UP_RIGHT: (_H, -_H),
    Motion.DOWN_LEFT: (-_H, _H),
    Motion.DOWN_RIGHT: (_H, _H),
}
CORE_MOTIONS = (Motion.STATIC, *DIRECTION)
HEADED = (*DIRECTION, Motion.BOUNCE, Motion.ACCELERATE, Motion.STOP_AND_GO)
"""Motions along a straight line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One object. ``x y`` is the centroid at tick 0, ``radius`` that of the circle of equal area."""

    kind: Kind = Kind.SHAPE
    colour: Colour = Colour.RED
    shape: Shape = Shape.CIRCLE
    size: Size = Size.MEDIUM
    motion: Motion = Motion.STATIC
    speed: Speed = Speed.MEDIUM
    x: float = 0.5
    y: float = 0.5
    radius: float = RADIUS[Size.MEDIUM]
    velocity: float = 0.0
    heading: float = 0.0
    phase: float = 0.0
    code: int = 0
    second: Colour = Colour.BLUE
    action: Action = Action.WALK

    def direction(self) -> tuple[float, float]:
        return DIRECTION.get(self.motion) or (math.cos(self.heading), math.sin(self.heading))


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """Pan in canvas widths per tick, zoom as a factor per tick."""

    pan_x: float = 0.0
    pan_y: float = 0.0
    zoom: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything the renderer needs; later things lie in front of earlier ones."""

    things: tuple[Thing, ...]
    ground: Ground = Ground.BLACK
    inks: tuple[Ground, Ground] = (Ground.BLACK, Ground.GRAY)
    relation: Relation | None = None
    camera: Camera = field(default_factory=Camera)
    num_frames: int = TICKS
    stride_ticks: int = 1
    cues: bool = True
    seed: int = 0
    version: int = GENERATOR_VERSION

    @property
    def ticks(self) -> int:
        """From its first frame to its last, both counted."""
        return (self.num_frames - 1) * self.stride_ticks + 1

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; the inverse of :meth:`from_dict`."""
        return _plain(asdict(self))

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Scene:
        if data.get("version") != GENERATOR_VERSION:
            raise ValueError(
                f"scene was written by toybox generator {data.get('version')}, this one is "
                f"{GENERATOR_VERSION}; "
                "re-create it with 'vgen prepare data=toybox'"
            )
        enums: dict[str, Callable[[Any], Any]] = {
            "kind": Kind,
            "colour": Colour,
            "shape": Shape,
            "size": Size,
            "motion": Motion,
            "speed": Speed,
            "second": Colour,
            "action": Action,
        }
        things = tuple(
            Thing(**{k: enums[k](v) if k in enums else v for k, v in thing.items()})
            for thing in data["things"]
        )
        rest = {k: v for k, v in data.items() if k not in ("things", "ground", "inks", "relation", "camera")}
        relation = None if data["relation"] is None else Relation(data["relation"])
        inks = (Ground(data["inks"][0]), Ground(data["inks"][1]))
        return Scene(
            things=things,
            ground=Ground(data["ground"]),
            inks=inks,
            relation=relation,
            camera=Camera(**data["camera"]),
            **rest,
        )


def _plain(value: Any) -> Any:
    match value:
        case Enum():
            return value.value
        case dict():
            return {k: _plain(v) for k, v in value.items()}
        case list() | tuple():
            return [_plain(v) for v in value]
        case _:
            return value
