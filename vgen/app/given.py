"""What a method is given beside the caption, for people and for other tools: the clip to edit, the control, stills of a subject."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vgen.metrics.task import Task

_JOINT_PX = 1


def shown(task: Task, size_px: int) -> tuple[str, np.ndarray] | None:
    """A title and uint8 f h w 3, as many frames as the task has; None where a caption is all there is."""
    inputs, num = task.inputs(size_px), task.scene.num_frames
    if inputs.source is not None:
        return "source", inputs.source
    if inputs.references is not None:
        return f"stills of {inputs.subject}", inputs.references[np.arange(num) * len(inputs.references) // num]
    if inputs.control is None:
        return None
    control = inputs.control if inputs.control.dtype == np.uint8 else _dots(inputs.control, size_px)
    return f"control: {inputs.control_name}", np.repeat(control[..., None], 3, -1)


def _dots(joints: np.ndarray, size_px: int) -> np.ndarray:
    """Joints f k 2 in canvas widths, as dots: uint8 f h w."""
    out = np.zeros((len(joints), size_px, size_px), np.uint8)
    for frame, points in enumerate(joints):
        for x, y in points[np.isfinite(points).all(-1)] * size_px:
            rows, columns = (slice(max(0, int(v) - _JOINT_PX), max(0, int(v) + _JOINT_PX + 1)) for v in (y, x))
            out[frame, rows, columns] = 255
    return out


def write_inputs(folder: Path, task: Task, size_px: int) -> dict[str, Any]:
    """The inputs of a task as npy files under ``folder/inputs``, and the row of the listing that names them."""
    inputs, row = task.inputs(size_px), {}
    for name in ("source", "control", "references"):
        array = getattr(inputs, name)
        if array is not None:
            path = folder / "inputs" / f"{task.id}.{name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, array)
            row[name] = str(path.relative_to(folder))
    words = {"source_caption": inputs.source_caption, "control_name": inputs.control_name, "subject": inputs.subject}
    return row | {k: v for k, v in words.items() if v}
