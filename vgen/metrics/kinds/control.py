"""Control: a caption and edges, mask, depth or poses of the clip to make."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vgen.metrics import control as _control
from vgen.metrics import given_frames as _given_frames
from vgen.metrics import pose as _pose
from vgen.metrics import trajectory as _trajectory
from vgen.metrics.control import iou, mask_fidelity
from vgen.metrics.given_frames import frames_held
from vgen.metrics.kinds import text
from vgen.metrics.kinds.asked import Asked, refuse_buckets
from vgen.metrics.kinds.scenes import SHOWN, Stream, scene_of, timed
from vgen.metrics.kinds.text import score_text
from vgen.metrics.metric import Numbers
from vgen.metrics.pose import pose_fidelity
from vgen.metrics.task import Inputs, Task, TaskKind
from vgen.metrics.trajectory import trajectory
from vgen.spec import Choice, spec
from vgen.toybox.captions import caption
from vgen.toybox.oracle import Facts, read
from vgen.toybox.oracle.grounds import read_backdrop
from vgen.toybox.oracle.pose import read_pose
from vgen.toybox.renderer import Rendered, render
from vgen.toybox.sampling import Beyond, Family, Mix, sample
from vgen.toybox.scenes import Action, Motion, Scene
from vgen.toybox.splits import Bucket

if TYPE_CHECKING:
    from vgen.metrics.suite import Suite


class Control(Choice):
    """What the method is given: of every frame, or some frames themselves."""

    EDGES = "edges"
    MASK = "mask"
    DEPTH = "depth"
    POSE = "pose"
    FRAMES = "frames"


class Given(Choice):
    """Which frames are given, where it is frames: the first alone, or the first and the last."""

    FIRST = "first"
    ENDS = "ends"


@dataclass(frozen=True, slots=True)
class Wanted:
    """``decoy``: the control of another clip, for CTRL-GAIN; that of a figure is the same figure doing
    something else. ``places`` are the numbers of the frames that are given, where it is frames."""

    control: Control
    decoy: Scene
    places: tuple[int, ...] = ()


def score_masks(video: np.ndarray, task: Task, facts: Facts | None = None) -> Numbers:
    facts = facts or read(video, task.scene.stride_ticks)
    truth = render(task.scene, video.shape[1])
    wanted, decoy = _mask(truth), _mask(render(task.about.decoy, video.shape[1]))
    ceiling = iou(read(truth.video, task.scene.stride_ticks).bodies, wanted)
    fidelity = mask_fidelity(facts.bodies, wanted, decoy, ceiling)
    return {**fidelity, **trajectory(facts, task.scene), **score_text(video, task, facts)}


def score_pose(video: np.ndarray, task: Task, facts: Facts | None = None) -> Numbers:
    """PCK and its like, and whether clothes and ground are those of the caption."""
    thing, seen = task.scene.things[0], read_pose(video)
    wanted, decoy = (render(s, video.shape[1]).keypoints[0] for s in (task.scene, task.about.decoy))
    ground = read_backdrop(video.astype(np.float32) / 255).ground
    return {
        **pose_fidelity(seen.joints, wanted, decoy),
        "clothes": float(seen.clothes == (thing.colour, thing.second)),
        "ground": float(ground is task.scene.ground),
    }


def score_frames(
    video: np.ndarray, task: Task, facts: Facts | None = None, reconstruction: np.ndarray | None = None
) -> Numbers:
    """``reconstruction``: the truth through the model's encoder and decoder."""
    facts, wanted = facts or read(video, task.scene.stride_ticks), true_clip(task, video.shape[1])
    held = frames_held(video, wanted, facts, task.scene, task.about.places, reconstruction)
    return {**held, **trajectory(facts, task.scene), **score_text(video, task, facts)}


def inputs(task: Task, size_px: int = 64) -> Inputs:
    control, places = task.about.control, task.about.places
    shown = _CONTROLS[control](render(task.scene, size_px))
    if places:
        shown[[i for i in range(len(shown)) if i not in places]] = 0
    return Inputs(control=shown, control_name=control.value, given_frames=places)


def true_clip(task: Task, size_px: int) -> np.ndarray:
    return render(task.scene, size_px).video


def _mask(drawn: Rendered) -> np.ndarray:
    return drawn.masks.max(1) > 0.5


def _depth(drawn: Rendered) -> np.ndarray:
    """Later things lie nearer."""
    num = drawn.masks.shape[1]
    nearness = (np.arange(num) + 1) / num * 255
    return np.where(_mask(drawn), nearness[drawn.masks.argmax(1)], 0).astype(np.uint8)


_CONTROLS = {
    Control.EDGES: Rendered.edges,
    Control.MASK: lambda drawn: _mask(drawn).astype(np.uint8) * 255,
    Control.DEPTH: _depth,
    Control.POSE: lambda drawn: drawn.keypoints[0].astype(np.float32),
    Control.FRAMES: lambda drawn: drawn.video.copy(),
}


def decoy_clip(task: Task, size_px: int) -> np.ndarray:
    """A trick that must not pay: a perfect clip of another control."""
    return render(task.about.decoy, size_px).video


KIND = TaskKind(
    name="control",
    metrics=(_control.METRIC, _trajectory.METRIC, *text.KIND.metrics),
    headlines=("j_norm", "ctrl_gain", "exact"),
    score=score_masks,
    inputs=inputs,
    tricks={"other control": decoy_clip},
)
POSE = TaskKind(
    name="pose",
    metrics=(_pose.METRIC,),
    headlines=("pck_moving", "ctrl_gain"),
    score=score_pose,
    inputs=inputs,
    tricks={"other control": decoy_clip},
)
FRAMES = TaskKind(
    name="frames",
    metrics=(_given_frames.METRIC, _trajectory.METRIC, *text.KIND.metrics),
    headlines=("held", "exact"),
    score=score_frames,
    through_codec=true_clip,
    inputs=inputs,
    tricks={"other control": decoy_clip},
)


FEWEST_FRAMES = 4
_POSES_LACK = (Bucket.PAIR, Bucket.TRIPLE, Bucket.EXTRAPOLATION)


@spec
class AskedControl(Asked):
    """``control`` is what the method is given of every frame; of ``frames`` it is given some, which ``given``
    says, and things move."""

    control: Control = Control.EDGES
    given: Given = Given.FIRST

    def check(self, suite: Suite) -> None:
        if self.control is Control.POSE:
            refuse_buckets(suite, "control=pose", _POSES_LACK)
        if self.control is Control.FRAMES and suite.num_frames < FEWEST_FRAMES:
            raise ValueError(
                f"a suite of control=frames needs {FEWEST_FRAMES} frames at least, so that some lie between "
                f"those that are given, got suite.num_frames={suite.num_frames}; 16 is the default"
            )

    def rule(self) -> dict[str, Any]:
        more = {"given": self.given.value} if self.control is Control.FRAMES else {}
        return {"control": self.control.value} | more

    def draw(self, suite: Suite, bucket: Bucket, i: int, stream: Stream) -> list[Task]:
        rng, id = stream(i), f"{bucket.value}-{i:04d}-{self.control.value}"
        if self.control is Control.POSE:
            kind, scene = (
                POSE,
                timed(sample(rng, Family.PUPPET, Mix(), beyond=Beyond(ticks=suite.ticks)), suite, i),
            )
            thing = scene.things[0]
            other = [a for a in Action if a is not thing.action][rng.integers(3)]
            decoy = replace(
                scene, things=(replace(thing, action=other, phase=float(rng.uniform(0, 2 * np.pi))),)
            )
        else:
            kind = FRAMES if self.control is Control.FRAMES else KIND
            scene, decoy = (timed(self._scene(rng, bucket, suite, i), suite, i) for _ in range(2))
        words = caption(scene, rng, paraphrase=bucket is Bucket.PARAPHRASE).text
        wanted, seed = Wanted(self.control, decoy, self._places(suite)), int(rng.integers(2**31))
        return [
            Task(
                id=id,
                caption=words,
                unspecified=(),
                scene=scene,
                seed=seed,
                bucket=bucket,
                kind=kind,
                group=id,
                about=wanted,
            )
        ]

    def _scene(self, rng: np.random.Generator, bucket: Bucket, suite: Suite, i: int) -> Scene:
        """Of frames one in which something moves: a frame that is repeated is no answer to it."""
        while True:
            scene = scene_of(rng, bucket, suite, beyond=SHOWN[i % len(SHOWN)])
            moves = any(thing.motion is not Motion.STATIC for thing in scene.things)
            if moves or self.control is not Control.FRAMES:
                return scene

    def _places(self, suite: Suite) -> tuple[int, ...]:
        if self.control is not Control.FRAMES:
            return ()
        return (0,) if self.given is Given.FIRST else (0, suite.num_frames - 1)
