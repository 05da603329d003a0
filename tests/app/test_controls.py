"""Controls of a suite as fields: what a checkpoint hears is what the oracle compares it with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vgen.app.judging.controls import fields_of, hears
from vgen.app.loading import load_backbone
from vgen.app.stacks import StackEntry
from vgen.conditions.pictures import picture_of
from vgen.formats.adapter import Card, save_adapter
from vgen.methods import assemble
from vgen.methods.control_net import ControlNets, Shown
from vgen.metrics.kinds.control import AskedControl, Control
from vgen.metrics.suite import Kind, Suite, tasks

SHAPES = {"edges": (16, 32, 32), "mask": (16, 32, 32), "depth": (16, 32, 32), "pose": (16, 1, 17, 3)}


@pytest.mark.parametrize("control", list(Control))
def test_every_control_is_a_picture_of_itself(control: Control) -> None:
    counts = {"iid": 2, "pair": 0, "triple": 0, "extrapolation": 0, "paraphrase": 0}
    suite = Suite(kind=Kind.CONTROL, control=AskedControl(control=control), **counts)
    todo = tasks(suite)
    field = fields_of(todo, 32)[control.value]
    assert field.shape == (2, *SHAPES[control.value])
    shown = picture_of(control.value, field, 32, 32)
    assert shown.shape == (2, 16, 3, 32, 32)
    assert shown.amax((1, 2, 3, 4)).min() > 0.5
    if control is Control.DEPTH:
        given = torch.from_numpy(np.stack([task.inputs(32).control for task in todo]))
        torch.testing.assert_close(shown[:, :, 0], given / given.amax((1, 2, 3), keepdim=True))
    assert not hears("untrained", todo[0])


def test_what_stands_beside_a_checkpoint_is_heard_too(tmp_path: Path) -> None:
    model, recipe = load_backbone("blank:toybox:0"), ControlNets(condition=Shown.EDGES)
    named = assemble(recipe, model).modules["edges"].named_parameters()
    tensors = {f"edges.{name}": x.detach() for name, x in named}
    path = tmp_path / "edges.safetensors"
    save_adapter(path, tensors, Card.of("control_net", recipe, model, {}, {}))
    beside = [StackEntry(name="edges", file=str(path))]
    counts = {"iid": 1, "pair": 0, "triple": 0, "extrapolation": 0, "paraphrase": 0}
    [task] = tasks(Suite(kind=Kind.CONTROL, **counts))
    assert hears("untrained", task, beside)
    [other] = tasks(Suite(kind=Kind.CONTROL, control=AskedControl(control=Control.DEPTH), **counts))
    assert not hears("untrained", other, beside)
