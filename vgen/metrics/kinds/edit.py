"""Editing: a clip, its words and other words; what the words do not say must stay as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vgen.metrics import editing as _editing
from vgen.metrics import temporal_consistency as _consistency
from vgen.metrics import true_motion as _motion
from vgen.metrics.editing import drawn, score_edit
from vgen.metrics.kinds.asked import Asked, refuse_share, values
from vgen.metrics.kinds.control import Control, shown_of
from vgen.metrics.kinds.scenes import SHOWN, Stream, scene_of, timed
from vgen.metrics.metric import Numbers
from vgen.metrics.task import Inputs, Task, TaskKind
from vgen.metrics.temporal_consistency import temporal_consistency
from vgen.metrics.true_motion import warp_error
from vgen.spec import field, spec
from vgen.toybox.edits import Edit, EditPair, edit_pair
from vgen.toybox.oracle import Facts, read
from vgen.toybox.sampling import Mix, rng_of
from vgen.toybox.splits import Bucket, bucket_of

if TYPE_CHECKING:
    from vgen.metrics.suite import Suite

MOST_TRIES = 400


def score_edited(
    video: np.ndarray, task: Task, facts: Facts | None = None, reconstruction: np.ndarray | None = None
) -> Numbers:
    """``reconstruction``: the source through the model's encoder and decoder, which sets what the ground can
    be kept to. ``tc_edited``: TC times the share of frames that show the edit; TC alone is won by a copy of
    the source. ``warp`` is :func:`warp_error`, along the motion that the source has too."""
    pair: EditPair = task.about
    facts = facts or read(video, task.scene.stride_ticks)
    edited = score_edit(source_clip(task, video.shape[1]), video, pair, reconstruction, facts)
    steady = temporal_consistency(facts, task.scene, video)
    shown = {"tc_edited": (steady["tc"] or 0.0) * (edited["edit_acc"] or 0.0)}
    return {**edited, **steady, **shown, "warp": warp_error(video, task.scene)}


def source_clip(task: Task, size_px: int) -> np.ndarray:
    """Also the trick that must not pay: the source handed back."""
    return drawn(task.about.scene, size_px)


def inputs(task: Task, size_px: int = 64) -> Inputs:
    pair: EditPair = task.about
    return Inputs(
        source=source_clip(task, size_px).copy(),
        source_caption=pair.source,
        instruction=pair.instruction,
    )


@dataclass(frozen=True, slots=True)
class OfSource:
    """A control of the true scene of the clip to edit, not of the edited one: the shape of a thing that is to
    have another is in it. Equal ones are equal in every process."""

    control: Control

    def __call__(self, task: Task, size_px: int) -> np.ndarray:
        return shown_of(task.about.scene, self.control, size_px)


KIND = TaskKind(
    name="edit",
    metrics=(_editing.METRIC, _consistency.METRIC, _motion.METRIC),
    headlines=("edit", "edit_strict", "tc_edited"),
    score=score_edited,
    has_source=True,
    through_codec=source_clip,
    inputs=inputs,
    structure={control.value: OfSource(control) for control in (Control.EDGES, Control.MASK, Control.DEPTH)},
    tricks={"source copy": source_clip},
)


@spec
class AskedEdits(Asked):
    """``edits`` take turns. ``open_share`` of the prompts leave size, speed and a ground that stays
    unsaid."""

    edits: list[Edit] = field(default_factory=lambda: [Edit.RECOLOUR, Edit.RESHAPE, Edit.GROUND, Edit.BOTH])
    open_share: float = 0.0

    def __post_init__(self) -> None:
        refuse_share("suite.edit.open_share", self.open_share, 0)
        if not self.edits:
            raise ValueError(
                "a suite of edits needs one edit at least, got suite.edit.edits=[]; "
                f"give some of {', '.join(e.value for e in Edit)}"
            )

    def rule(self) -> dict[str, Any]:
        return {"edits": values(self.edits)} | ({"open_share": self.open_share} if self.open_share else {})

    def draw(self, suite: Suite, bucket: Bucket, i: int, stream: Stream) -> list[Task]:
        """Edits take turns. The source is as in training, and what the edit makes of it lies in the bucket.
        Another ground is in no bucket, so there the source is."""
        rng, edit = stream(i), self.edits[i % len(self.edits)]
        mix = Mix(two_things=1.0) if edit is Edit.BOTH else Mix()
        for _ in range(MOST_TRIES):
            source = bucket if edit is Edit.GROUND or bucket is Bucket.EXTRAPOLATION else Bucket.IID
            scene = timed(scene_of(rng, source, suite, mix, SHOWN[i % len(SHOWN)]), suite, i)
            said = int(rng.integers(2**31))
            terse = bool(
                rng_of(said, 2).random() < self.open_share
            )  # drawn apart: the clips are the same whatever is said of them
            pair = edit_pair(scene, edit, said, paraphrase=bucket is Bucket.PARAPHRASE, terse=terse)
            if _lies_in(pair, bucket):
                break
        else:
            raise AssertionError(f"no {edit.value} of bucket {bucket.value} in {MOST_TRIES} scenes")
        id = f"{bucket.value}-{i:04d}-{edit.value}"
        seed = int(rng.integers(2**31))
        return [
            Task(
                id=id,
                caption=pair.target,
                unspecified=(),
                scene=pair.edited,
                seed=seed,
                bucket=bucket,
                kind=KIND,
                group=id,
                about=pair,
            )
        ]


def _lies_in(pair: EditPair, bucket: Bucket) -> bool:
    wanted = bucket if bucket in (Bucket.PAIR, Bucket.TRIPLE) else Bucket.IID
    return bucket is Bucket.EXTRAPOLATION or all(
        bucket_of(pair.edited.things[i]) is wanted for i in pair.changed
    )
