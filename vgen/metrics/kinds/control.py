"""Control: a caption and edges, mask, depth or poses of the clip to make."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vgen.metrics import control as _control
from vgen.metrics import pose as _pose
from vgen.metrics import trajectory as _trajectory
from vgen.metrics.control import iou, mask_fidelity
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
from vgen.toybox.scenes import Action, Scene
from vgen.toybox.splits import Bucket

if TYPE_CHECKING:
    from vgen.metrics.suite import Suite


class Control(Choice):
    """What the method is given of every frame."""

    EDGES = "edges"
    MASK = "mask"
    DEPTH = "depth"
    POSE = "pose"


@dataclass(frozen=True, slots=True)
class Wanted:
    """``decoy``: the control of another clip, for CTRL-GAIN; that of a figure is the same figure doing
    something else."""

    control: Control
    decoy: Scene


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


def inputs(task: Task, size_px: int = 64) -> Inputs:
    control: Control = task.about.control
    return Inputs(control=shown_of(task.scene, control, size_px), control_name=control.value)


def shown_of(scene: Scene, control: Control, size_px: int) -> np.ndarray:
    """The true control of a scene, as :class:`Inputs` has it."""
    return _CONTROLS[control](render(scene, size_px))


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


_POSES_LACK = (Bucket.PAIR, Bucket.TRIPLE, Bucket.EXTRAPOLATION)


@spec
class AskedControl(Asked):
    """``control`` is what the method is given of every frame."""

    control: Control = Control.EDGES

    def check(self, suite: Suite) -> None:
        if self.control is Control.POSE:
            refuse_buckets(suite, "control=pose", _POSES_LACK)

    def rule(self) -> dict[str, Any]:
        return {"control": self.control.value}

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
            kind, beyond = KIND, SHOWN[i % len(SHOWN)]
            scene, decoy = (timed(scene_of(rng, bucket, suite, beyond=beyond), suite, i) for _ in range(2))
        words = caption(scene, rng, paraphrase=bucket is Bucket.PARAPHRASE).text
        wanted, seed = Wanted(self.control, decoy), int(rng.integers(2**31))
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
