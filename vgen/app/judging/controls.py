"""Controls of a suite, and of the clips that it gives to edit, as the fields that a checkpoint hears."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from vgen.app.given_fields import WORDS
from vgen.app.stacks import UNTRAINED, Layer, StackEntry, opened
from vgen.conditions.condition import revealed
from vgen.conditions.fps import FPS
from vgen.methods import VideoModel
from vgen.metrics.suite import Task
from vgen.metrics.task import Inputs
from vgen.toybox.renderer import Rendered, render
from vgen.toybox.scenes import TICKS_PER_SECOND

_PICTURES = frozenset({"reference", "background"})


def _bytes(control: np.ndarray) -> np.ndarray:
    return control


def _distance(control: np.ndarray) -> np.ndarray:
    """Of depth bytes, 0 farthest."""
    return 255 - control.astype(np.float32)


def _person(control: np.ndarray) -> np.ndarray:
    """float32 f 1 17 3 of joints f 17 2."""
    return np.concatenate([control, np.ones_like(control[..., :1])], -1)[:, None].astype(np.float32)


def _pictures(control: np.ndarray) -> np.ndarray:
    """uint8 f 3 h w."""
    return np.moveaxis(control, -1, -3)


_FIELDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "edges": _bytes,
    "mask": _bytes,
    "depth": _distance,
    "pose": _person,
    "frames": _pictures,
}


def hears(adapter: str, task: Task, stack: Sequence[StackEntry] = ()) -> bool:
    """Whether a checkpoint, what lies beneath it, or what stands beside it listens to the control of a
    task."""
    name = task.inputs().control_name
    return bool(name) and name in heard_by(adapter, stack)


def heard_by(adapter: str, stack: Sequence[StackEntry] = ()) -> set[str]:
    """Fields that a checkpoint, what lies beneath it, or what stands beside it listens to."""
    named = {entry.file: f"stack.{entry.name}.file" for entry in stack}
    if adapter != UNTRAINED:
        named[adapter] = f"adapter={adapter}"
    found = [layer for file, said in named.items() for layer in opened(file, said)]
    return {name for layer in found if isinstance(layer, Layer) for name in layer.recipe.reads()}


_OF_CLIP: dict[str, Callable[[Rendered], np.ndarray]] = {
    "source": lambda drawn: np.moveaxis(drawn.video, -1, -3),
    "flow": lambda drawn: np.moveaxis(drawn.flow(), -1, -3),
}
"""What the noise may follow: the clip that the control was taken from, and how it moves."""


def fields_of(todo: Sequence[Task], size_px: int, of_noise: Collection[str] = ()) -> dict[str, Tensor]:
    """One row per task, of tasks of one suite; nothing where a caption is all there is. ``of_noise`` are
    fields that the noise hangs on."""
    given = [task.inputs(size_px) for task in todo]
    name = given[0].control_name
    if not name:
        return {}
    rows = {name: [_FIELDS[name](one.control) for one in given if one.control is not None]}
    for picture in given[0].pictures:
        rows[picture] = [np.moveaxis(one.pictures[picture], -1, -3) for one in given]
    for followed in sorted(of_noise):
        rows[followed] = [_OF_CLIP[followed](render(task.scene, size_px)) for task in todo]
    if given[0].given_frames:
        rows[revealed(name)] = [_counting(one) for one in given]
    return {field: torch.from_numpy(np.stack(found)) for field, found in rows.items()}


def _counting(given: Inputs) -> np.ndarray:
    """bool f: which frames of the control are given."""
    assert given.control is not None  # the caller's
    counts = np.zeros(len(given.control), bool)
    counts[list(given.given_frames)] = True
    return counts


def refuse_lacking(video_model: VideoModel, task: Task, suite: str) -> None:
    """Raises ValueError where a checkpoint needs a picture that a suite of controls can hand over, and does
    not."""
    inputs = task.inputs()
    reads = {field for name in video_model.needed for field in video_model.conditions[name].reads()}
    lacking = sorted((reads & _PICTURES) - set(inputs.pictures))
    if inputs.control_name and lacking:
        raise ValueError(
            f"suite {suite} hands over {inputs.control_name}, and the checkpoint also listens to "
            f"{' and '.join(lacking)}; set suite.control.reference=own, which shows the figure in another "
            "pose, or =first, the clip's first frame"
        )


def frame_rate_of(todo: Sequence[Task]) -> dict[str, Tensor]:
    """Frames per second of tasks of one suite, for whoever listens to them."""
    return {FPS: torch.tensor([TICKS_PER_SECOND / todo[0].scene.stride_ticks])}


def fields_of_source(
    task: Task, video_model: VideoModel, size_px: int, known: Collection[str]
) -> dict[str, Tensor]:
    """Controls of the clip to edit that the conditions of a model wait for, one row each; those that are
    ``known`` are left out. They are drawn from its true scene, as those that the toybox's nets learn from.

    Raises ValueError for a field that the kind of task does not have.
    """
    conditions = [video_model.conditions[name] for name in video_model.needed]
    wanted = {name for condition in conditions for name in condition.reads()} - WORDS - {*known}
    drawn = task.kind.structure
    if lacking := sorted(wanted - {*drawn}):
        raise ValueError(
            f"what edits listens to {', '.join(lacking)}, and a suite of {task.kind.name} has of its clips "
            f"{', '.join(drawn) or 'no control'}; stack a net for one of these"
        )
    given = {name: _FIELDS[name](drawn[name](task, size_px)) for name in sorted(wanted)}
    return {name: torch.from_numpy(control.copy())[None] for name, control in given.items()}
