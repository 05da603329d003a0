"""Camera: a caption, and a motion of the camera that it does not speak of, as a MotionLoRA learns it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vgen.metrics import camera as _camera
from vgen.metrics.camera import camera_numbers
from vgen.metrics.kinds.asked import Asked, refuse_buckets, values
from vgen.metrics.kinds.scenes import Stream, scene_of, timed
from vgen.metrics.metric import Numbers
from vgen.metrics.task import Task, TaskKind
from vgen.spec import Choice, field, spec
from vgen.toybox.captions import caption
from vgen.toybox.oracle import Facts, read
from vgen.toybox.renderer import render
from vgen.toybox.sampling import Beyond, Mix, place
from vgen.toybox.scenes import Camera, Scene
from vgen.toybox.splits import Bucket

if TYPE_CHECKING:
    from vgen.metrics.suite import Suite

FEWEST_FRAMES = 4


class Filmed(Choice):
    """Motions of the camera, by the names of ``camera.move``. The world's camera does not roll."""

    PAN_LEFT = "pan_left"
    PAN_RIGHT = "pan_right"
    TILT_UP = "tilt_up"
    TILT_DOWN = "tilt_down"
    ZOOM_IN = "zoom_in"
    ZOOM_OUT = "zoom_out"


_AXES = {
    Filmed.PAN_LEFT: (-1, 0, 0),
    Filmed.PAN_RIGHT: (1, 0, 0),
    Filmed.TILT_UP: (0, -1, 0),
    Filmed.TILT_DOWN: (0, 1, 0),
    Filmed.ZOOM_IN: (0, 0, 1),
    Filmed.ZOOM_OUT: (0, 0, -1),
}


def score_camera(video: np.ndarray, task: Task, facts: Facts | None = None) -> Numbers:
    facts = facts or read(video, task.scene.stride_ticks)
    return camera_numbers(facts, task.scene, video.shape[1])


def resting_clip(task: Task, size_px: int) -> np.ndarray:
    """A trick that must not pay: the same things, and a camera that does not move."""
    return render(replace(task.scene, camera=Camera()), size_px).video


KIND = TaskKind(
    name="camera",
    metrics=(_camera.METRIC,),
    headlines=("filmed",),
    score=score_camera,
    tricks={"camera at rest": resting_clip},
)


@spec
class AskedCamera(Asked):
    """``moves`` are made together, each as far as ``camera.move`` of ``vgen prepare`` makes it at the same
    ``share``, the smallest window's side in picture widths."""

    moves: list[Filmed] = field(default_factory=lambda: [Filmed.PAN_LEFT])
    share: float = 0.8

    def __post_init__(self) -> None:
        if not 0.5 <= self.share < 1:
            raise ValueError(
                f"suite.camera.share must lie in 0.5..1, without 1, got {self.share}; 0.8 is the default"
            )
        if not self.moves:
            raise ValueError(
                "a suite of camera motions needs one at least, got suite.camera.moves=[]; "
                f"give some of {', '.join(move.value for move in Filmed)}"
            )

    def check(self, suite: Suite) -> None:
        refuse_buckets(suite, "kind=camera", (Bucket.EXTRAPOLATION,))
        if suite.num_frames < FEWEST_FRAMES:
            raise ValueError(
                f"a suite of camera motions needs {FEWEST_FRAMES} frames at least, got "
                f"suite.num_frames={suite.num_frames}; 16 is the default"
            )

    def rule(self) -> dict[str, Any]:
        return {"moves": values(self.moves), "share": self.share}

    def draw(self, suite: Suite, bucket: Bucket, i: int, stream: Stream) -> list[Task]:
        """Two things, which show a camera better than one, and stay in its picture."""
        rng, id = stream(i), f"{bucket.value}-{i:04d}-{'-'.join(values(self.moves))}"
        scene = timed(_filmed(rng, bucket, suite, self._camera(suite.ticks)), suite, i)
        words = caption(scene, rng, paraphrase=bucket is Bucket.PARAPHRASE).text
        return [
            Task(
                id=id,
                caption=words,
                unspecified=(),
                scene=scene,
                seed=int(rng.integers(2**31)),
                bucket=bucket,
                kind=KIND,
                group=id,
            )
        ]

    def _camera(self, ticks: int) -> Camera:
        """From the first tick of a clip to the last, by as much as the window's room."""
        right, down, closer = np.sum([_AXES[move] for move in self.moves], 0) / (ticks - 1)
        room = (1 - self.share) / self.share
        zoom = float(self.share**-closer)
        return Camera(pan_x=float(right * room), pan_y=float(down * room), zoom=zoom)


def _filmed(rng: np.random.Generator, bucket: Bucket, suite: Suite, camera: Camera) -> Scene:
    """A scene with room for the camera's way."""
    while True:
        scene = scene_of(rng, bucket, suite, Mix(two_things=1.0))
        placed = place(rng, list(scene.things), None, camera, Beyond(ticks=suite.ticks))
        if placed is not None:
            return replace(scene, things=tuple(placed), camera=camera)
