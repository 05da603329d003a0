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
from vgen.metrics.pose import pose_fidelity, pose_lag
from vgen.metrics.task import Inputs, Task, TaskKind
from vgen.metrics.temporal_consistency import background_flicker
from vgen.metrics.trajectory import trajectory
from vgen.spec import Choice, spec
from vgen.toybox.captions import caption
from vgen.toybox.oracle import Facts, read
from vgen.toybox.oracle.grounds import read_backdrop
from vgen.toybox.oracle.pose import read_clothes, read_pose
from vgen.toybox.renderer import Rendered, render
from vgen.toybox.sampling import Beyond, Family, Mix, sample
from vgen.toybox.scenes import Action, Colour, Motion, Scene
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


class Picture(Choice):
    """The still that is handed over as ``reference``: ``own`` shows the figure doing something else,
    ``other`` another figure on another ground, ``first`` the clip's first frame, ``black`` nothing."""

    NONE = "none"
    BLACK = "black"
    FIRST = "first"
    OWN = "own"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Wanted:
    """``decoy``: the control of another clip, for CTRL-GAIN; that of a figure is the same figure doing
    something else. ``still``: the scene of one frame that ``reference`` shows, None where that is black.
    ``places`` are the numbers of the frames that are given, where it is frames."""

    control: Control
    decoy: Scene
    reference: Picture = Picture.NONE
    still: Scene | None = None
    places: tuple[int, ...] = ()


def score_masks(video: np.ndarray, task: Task, facts: Facts | None = None) -> Numbers:
    facts = facts or read(video, task.scene.stride_ticks)
    truth = render(task.scene, video.shape[1])
    wanted, decoy = _mask(truth), _mask(render(task.about.decoy, video.shape[1]))
    ceiling = iou(read(truth.video, task.scene.stride_ticks).bodies, wanted)
    fidelity = mask_fidelity(facts.bodies, wanted, decoy, ceiling)
    return {**fidelity, **trajectory(facts, task.scene), **score_text(video, task, facts)}


def score_pose(video: np.ndarray, task: Task, facts: Facts | None = None) -> Numbers:
    """PCK and its like, whether clothes and ground are those of the figure, and how steady they are:
    ``cflip`` share of frames in other clothes than the clip's, ``bgflick`` change in 1/255 away from where
    the poses have the figure."""
    thing, seen = task.scene.things[0], read_pose(video)
    truth, decoy = (render(scene, video.shape[1]) for scene in (task.scene, task.about.decoy))
    wanted = truth.keypoints[0]
    ground = read_backdrop(video.astype(np.float32) / 255).ground
    return {
        **pose_fidelity(seen.joints, wanted, decoy.keypoints[0]),
        "lag": pose_lag(seen.joints, wanted),
        "clothes": float(seen.clothes == (thing.colour, thing.second)),
        "ground": float(ground is task.scene.ground),
        "cflip": _changes(video, seen.clothes),
        "bgflick": background_flicker(video, _mask(truth)),
    }


def _changes(video: np.ndarray, usual: tuple[Colour, Colour] | None) -> float:
    """Share of frames whose clothes are not the usual ones; 1, the worst, where nobody wears any."""
    if usual is None:
        return 1.0
    return float(np.mean([worn != usual for worn in read_clothes(video)]))


def score_frames(
    video: np.ndarray, task: Task, facts: Facts | None = None, reconstruction: np.ndarray | None = None
) -> Numbers:
    """``reconstruction``: the truth through the model's encoder and decoder."""
    facts, wanted = facts or read(video, task.scene.stride_ticks), true_clip(task, video.shape[1])
    held = frames_held(video, wanted, facts, task.scene, task.about.places, reconstruction)
    return {**held, **trajectory(facts, task.scene), **score_text(video, task, facts)}


def inputs(task: Task, size_px: int = 64) -> Inputs:
    control, places = task.about.control, task.about.places
    shown = shown_of(task.scene, control, size_px)
    if places:
        shown[[i for i in range(len(shown)) if i not in places]] = 0
    return Inputs(
        control=shown,
        control_name=control.value,
        given_frames=places,
        pictures=_pictures(task, size_px),
    )


def _pictures(task: Task, size_px: int) -> dict[str, np.ndarray]:
    """``reference``, and the ground that the clip has as ``background``; none where none is asked for."""
    about: Wanted = task.about
    if about.reference is Picture.NONE:
        return {}
    empty = render(replace(task.scene, things=(), num_frames=1), size_px).video
    still = np.zeros_like(empty) if about.still is None else render(about.still, size_px).video
    return {"reference": still, "background": empty}


def shown_of(scene: Scene, control: Control, size_px: int) -> np.ndarray:
    """The true control of a scene, as :class:`Inputs` has it."""
    return _CONTROLS[control](render(scene, size_px))


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
_STILL = 1  # the stream of what is drawn for the still, apart: the clips are the same whatever stands beside


@spec
class AskedControl(Asked):
    """``control`` is what the method is given of every frame; of ``frames`` it is given some, which ``given``
    says, and things move. ``reference`` is the still that is handed over with it; the clip's ground then is,
    too."""

    control: Control = Control.EDGES
    given: Given = Given.FIRST
    reference: Picture = Picture.NONE

    def check(self, suite: Suite) -> None:
        if self.control is Control.POSE:
            refuse_buckets(suite, "control=pose", _POSES_LACK)
        elif self.reference in (Picture.OWN, Picture.OTHER):
            raise ValueError(
                f"suite.control.reference={self.reference.value} shows a figure, and control="
                f"{self.control.value} asks for none; set suite.control.control=pose, or "
                "suite.control.reference=first"
            )
        if self.control is Control.FRAMES and suite.num_frames < FEWEST_FRAMES:
            raise ValueError(
                f"a suite of control=frames needs {FEWEST_FRAMES} frames at least, so that some lie between "
                f"those that are given, got suite.num_frames={suite.num_frames}; 16 is the default"
            )

    def rule(self) -> dict[str, Any]:
        more = {"given": self.given.value} if self.control is Control.FRAMES else {}
        shown = {} if self.reference is Picture.NONE else {"reference": self.reference.value}
        return {"control": self.control.value, **more, **shown}

    def draw(self, suite: Suite, bucket: Bucket, i: int, stream: Stream) -> list[Task]:
        rng, id = stream(i), f"{bucket.value}-{i:04d}-{self.control.value}"
        if self.control is Control.POSE:
            kind = POSE
            scene = timed(_figure(rng, suite), suite, i)
            decoy = _doing_something_else(scene, rng)
        else:
            kind = FRAMES if self.control is Control.FRAMES else KIND
            scene, decoy = (timed(self._scene(rng, bucket, suite, i), suite, i) for _ in range(2))
        words = caption(scene, rng, paraphrase=bucket is Bucket.PARAPHRASE).text
        seed = int(rng.integers(2**31))
        still = self._still(scene, suite, stream(i, _STILL))
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
                about=Wanted(self.control, decoy, self.reference, still, self._places(suite)),
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

    def _still(self, scene: Scene, suite: Suite, rng: np.random.Generator) -> Scene | None:
        match self.reference:
            case Picture.NONE | Picture.BLACK:
                return None
            case Picture.FIRST:
                return replace(scene, num_frames=1)
            case Picture.OWN:
                return replace(_doing_something_else(scene, rng), num_frames=1)
            case Picture.OTHER:
                return replace(_somebody_else(scene, suite, rng), num_frames=1)


def _figure(rng: np.random.Generator, suite: Suite) -> Scene:
    return sample(rng, Family.PUPPET, Mix(), beyond=Beyond(ticks=suite.ticks))


def _doing_something_else(scene: Scene, rng: np.random.Generator) -> Scene:
    thing = scene.things[0]
    other = [a for a in Action if a is not thing.action][rng.integers(3)]
    return replace(scene, things=(replace(thing, action=other, phase=float(rng.uniform(0, 2 * np.pi))),))


def _somebody_else(scene: Scene, suite: Suite, rng: np.random.Generator) -> Scene:
    """Nothing of what is worn, nor the ground, is the same."""
    known = scene.things[0]
    while True:
        drawn = _figure(rng, suite)
        thing = drawn.things[0]
        worn_by_neither = thing.colour is not known.colour and thing.second is not known.second
        if worn_by_neither and drawn.ground is not scene.ground:
            return drawn
