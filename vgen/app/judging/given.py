"""What a method is given beside the caption, for people and for other tools: the clip to edit, the control,
stills of a subject."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vgen.metrics.task import Task
from vgen.toybox.puppet import LIMBS

_JOINT_PX, _LIMB = 0.5, 150


def shown(task: Task, size_px: int) -> tuple[str, np.ndarray] | None:
    """A title and uint8 f h w 3, as many frames as the task has; None where a caption is all there is."""
    inputs, num = task.inputs(size_px), task.scene.num_frames
    if inputs.source is not None:
        return "source", inputs.source
    if inputs.references is not None:
        return f"stills of {inputs.subject}", inputs.references[
            np.arange(num) * len(inputs.references) // num
        ]
    if inputs.control is None:
        return None
    control = inputs.control if inputs.control.dtype == np.uint8 else _figure(inputs.control, size_px)
    grey = control.ndim == 3
    return f"control: {inputs.control_name}", np.repeat(control[..., None], 3, -1) if grey else control


def pictures(task: Task, size_px: int) -> list[tuple[str, np.ndarray]]:
    """Stills that stand beside the control, by their names: uint8 f h w 3 that rests."""
    found = task.inputs(size_px).pictures
    return [(name, np.repeat(still, task.scene.num_frames, 0)) for name, still in found.items()]


def _figure(joints: np.ndarray, size_px: int) -> np.ndarray:
    """Joints f 17 2 in canvas widths, NaN where there is none, as dots and limbs: uint8 f h w."""
    out = []
    for points in joints * size_px:
        image = Image.new("L", (size_px, size_px))
        pen = ImageDraw.Draw(image)
        for a, b in LIMBS:
            if np.isfinite(points[[a, b]]).all():
                pen.line([tuple(points[a]), tuple(points[b])], fill=_LIMB)
        for x, y in points[np.isfinite(points).all(-1)]:
            pen.rectangle([x - _JOINT_PX, y - _JOINT_PX, x + _JOINT_PX, y + _JOINT_PX], fill=255)
        out.append(np.asarray(image))
    return np.stack(out)


def write_inputs(folder: Path, task: Task, size_px: int) -> dict[str, Any]:
    """The inputs of a task as npy files under ``folder/inputs``, and the row of the listing that names
    them."""
    inputs, row = task.inputs(size_px), {}
    arrays = {name: getattr(inputs, name) for name in ("source", "control", "references")}
    for name, array in (arrays | dict(inputs.pictures)).items():
        if array is not None:
            path = folder / "inputs" / f"{task.id}.{name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, array)
            row[name] = str(path.relative_to(folder))
    words = {
        "source_caption": inputs.source_caption,
        "control_name": inputs.control_name,
        "subject": inputs.subject,
    }
    numbers = {"given_frames": list(inputs.given_frames)}
    return row | {k: v for k, v in {**words, **numbers}.items() if v}
