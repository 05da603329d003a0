"""Controls of a suite as fields: what a checkpoint hears is what the oracle compares it with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vgen.app.judging.controls import fields_of, hears
from vgen.conditions.pictures import picture_of
from vgen.metrics.kinds.control import AskedControl, Control
from vgen.metrics.suite import Kind, Suite, Task, tasks
from vgen.toybox.renderer import render

SHAPES = {
    "edges": (16, 32, 32),
    "mask": (16, 32, 32),
    "depth": (16, 32, 32),
    "pose": (16, 1, 17, 3),
    "frames": (16, 3, 32, 32),
}


@pytest.mark.parametrize("control", list(Control))
def test_every_control_is_a_picture_of_itself(control: Control) -> None:
    counts = {"iid": 2, "pair": 0, "triple": 0, "extrapolation": 0, "paraphrase": 0}
    suite = Suite(kind=Kind.CONTROL, control=AskedControl(control=control), **counts)
    todo = tasks(suite)
    field = fields_of(todo, 32)[control.value]
    assert field.shape == (2, *SHAPES[control.value])
    assert not hears("untrained", todo[0])
    if control is Control.FRAMES:
        counts = fields_of(todo, 32)["frames_revealed"]
        assert counts.tolist() == 2 * [[True] + 15 * [False]]
        assert torch.equal(field[:, 0], torch.from_numpy(np.stack([first(task) for task in todo])))
        return
    shown = picture_of(control.value, field, 32, 32)
    assert shown.shape == (2, 16, 3, 32, 32)
    assert shown.amax((1, 2, 3, 4)).min() > 0.5
    if control is Control.DEPTH:
        given = torch.from_numpy(np.stack([task.inputs(32).control for task in todo]))
        torch.testing.assert_close(shown[:, :, 0], given / given.amax((1, 2, 3), keepdim=True))


def first(task: Task) -> np.ndarray:
    """The first frame of the truth, uint8 3 h w."""
    return np.moveaxis(render(task.scene, 32).video[0], -1, 0)
