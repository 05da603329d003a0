"""Controls of a suite as the fields that a checkpoint hears."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from vgen.app.stacks import UNTRAINED, Layer, opened
from vgen.conditions.condition import revealed
from vgen.metrics.suite import Task
from vgen.metrics.task import Inputs


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


def hears(adapter: str, task: Task) -> bool:
    """Whether a checkpoint, or what lies beneath it, listens to the control of a task."""
    name = task.inputs().control_name
    if adapter == UNTRAINED or not name:
        return False
    layers = [one for one in opened(adapter, f"adapter={adapter}") if isinstance(one, Layer)]
    return any(name in layer.recipe.reads() for layer in layers)


def fields_of(todo: Sequence[Task], size_px: int) -> dict[str, Tensor]:
    """One row per task, of tasks of one suite; nothing where a caption is all there is."""
    given = [task.inputs(size_px) for task in todo]
    name = given[0].control_name
    if not name:
        return {}
    rows = [_FIELDS[name](one.control) for one in given if one.control is not None]
    fields = {name: torch.from_numpy(np.stack(rows))}
    if given[0].given_frames:
        fields[revealed(name)] = torch.from_numpy(np.stack([_counting(one) for one in given]))
    return fields


def _counting(given: Inputs) -> np.ndarray:
    """bool f: which frames of the control are given."""
    assert given.control is not None  # the caller's
    counts = np.zeros(len(given.control), bool)
    counts[list(given.given_frames)] = True
    return counts
