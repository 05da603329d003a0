"""Controls of a suite, and of the clips that it gives to edit, as the fields that a checkpoint hears."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from vgen.app.given_fields import WORDS
from vgen.app.stacks import UNTRAINED, Layer, StackEntry, opened
from vgen.methods import VideoModel
from vgen.metrics.suite import Task


def _bytes(control: np.ndarray) -> np.ndarray:
    return control


def _distance(control: np.ndarray) -> np.ndarray:
    """Of depth bytes, 0 farthest."""
    return 255 - control.astype(np.float32)


def _person(control: np.ndarray) -> np.ndarray:
    """float32 f 1 17 3 of joints f 17 2."""
    return np.concatenate([control, np.ones_like(control[..., :1])], -1)[:, None].astype(np.float32)


_FIELDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "edges": _bytes,
    "mask": _bytes,
    "depth": _distance,
    "pose": _person,
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


def fields_of(todo: Sequence[Task], size_px: int) -> dict[str, Tensor]:
    """One row per task, of tasks of one suite; nothing where a caption is all there is."""
    given = [task.inputs(size_px) for task in todo]
    name = given[0].control_name
    if not name:
        return {}
    rows = [_FIELDS[name](one.control) for one in given if one.control is not None]
    return {name: torch.from_numpy(np.stack(rows))}


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
