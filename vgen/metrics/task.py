"""What a model is asked to make, and what a kind of task adds to caption and noise. Callers need no ``if
kind``: a kind is a value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vgen.metrics.metric import Metric, Numbers
from vgen.metrics.statistics import Resampled
from vgen.toybox.scenes import Scene
from vgen.toybox.splits import Bucket


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a method is given beside the caption; what its kind of task does not have is None or empty.

    ``source`` uint8 f h w 3 is the clip to edit, ``source_caption`` its words, ``instruction`` what is to be
    done. ``control`` is what
    ``control_name`` says: ``edges``, ``mask`` and ``depth`` uint8 f h w (0 or 255; depth 0 is farthest),
    ``pose`` float32 f 17 2 in canvas widths, COCO order, ``frames`` uint8 f h w 3, zeros where none is given.
    ``given_frames`` are the numbers of the frames that ``control`` gives; empty, it gives all.
    ``pictures`` uint8 1 h w 3 are stills that stand beside it, by the names of their fields. ``references``
    uint8 n h w 3 are stills of the subject named ``subject``, ``reference_captions`` their words: tune once
    per subject."""

    source: np.ndarray | None = None
    source_caption: str = ""
    instruction: str = ""
    control: np.ndarray | None = None
    control_name: str = ""
    given_frames: tuple[int, ...] = ()
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict)
    references: np.ndarray | None = None
    reference_captions: tuple[str, ...] = ()
    subject: str = ""


def nothing(task: Task, size_px: int = 64) -> Inputs:
    """A caption and its noise are all there is."""
    return Inputs()


def no_set(rows: Sequence[tuple[Task, Numbers]]) -> dict[str, Resampled]:
    """Clips are scored one by one and nothing more is asked of them together."""
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """What can be asked where the scenes are known that a checkpoint was taught from: ``measure`` gives each
    row more numbers, from which ``score_set`` makes number ``key``; ``copies`` are the clips of one who only
    repeats those scenes, ``trick`` what they are called."""

    key: str
    measure: Callable[[Sequence[tuple[Task, Numbers]], Sequence[Scene]], list[Numbers]]
    trick: str
    copies: Callable[[Sequence[Task], Sequence[Scene], int], list[np.ndarray]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskKind:
    """``score`` turns a clip uint8 f h w 3 (and what the oracle read in it, if it did) into one row; where
    the method is held to a clip (``through_codec``: its source, or what it is given frames of) it also takes
    what a model's encoder and decoder make of that. ``has_source`` says that the method edits. ``inputs``
    draws what the method is given; ``structure`` draws controls of the clip to edit by name, for methods that
    listen to one; ``score_set`` turns the rows of one checkpoint into numbers that need many
    clips, whose ``set_headlines`` are best where they have the value that is given; the same clips give the
    same resamples, so that two checkpoints are compared by pairs. ``tricks`` are clips that must not pay,
    beside those of the self-test; those of ``set_tricks`` may be right one by one and must not pay together.
    ``headlines`` are better when larger; ``still_headlines`` are those of clips of one frame."""

    name: str
    metrics: tuple[Metric, ...]
    headlines: tuple[str, ...]
    still_headlines: tuple[str, ...] = ()
    score: Callable[..., Numbers]
    has_source: bool = False
    through_codec: Callable[[Task, int], np.ndarray] | None = None
    inputs: Callable[[Task, int], Inputs] = nothing
    structure: Mapping[str, Callable[[Task, int], np.ndarray]] = field(default_factory=dict)
    score_set: Callable[[Sequence[tuple[Task, Numbers]]], dict[str, Resampled]] = no_set
    recall: Recall | None = None
    set_headlines: Mapping[str, float] = field(default_factory=dict)
    tricks: Mapping[str, Callable[[Task, int], np.ndarray]] = field(default_factory=dict)
    set_tricks: Mapping[str, Callable[[Task, int], np.ndarray]] = field(default_factory=dict)

    def headlines_of(self, num_frames: int) -> tuple[str, ...]:
        return self.still_headlines if num_frames == 1 and self.still_headlines else self.headlines


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One clip to make. ``scene`` rendered is a perfect answer; ``seed`` is that of its noise; tasks of one
    ``group`` (a prompt, a subject) are no independent samples; ``about`` is what its kind knows beside the
    scene."""

    id: str
    caption: str
    unspecified: tuple[str, ...]
    scene: Scene
    seed: int
    bucket: Bucket
    kind: TaskKind
    group: str
    about: Any = None

    def inputs(self, size_px: int = 64) -> Inputs:
        return self.kind.inputs(self, size_px)

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind.name,
            "caption": self.caption,
            "unspecified": list(self.unspecified),
            "scene": self.scene.to_dict(),
            "seed": self.seed,
            "bucket": self.bucket.value,
            "group": self.group,
        }
