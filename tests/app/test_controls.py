"""Controls of a suite as fields: what a checkpoint hears is what the oracle compares it with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vgen.app.judging.controls import fields_of, frame_rate_of, hears, refuse_lacking
from vgen.app.loading import load_backbone
from vgen.app.stacks import StackEntry
from vgen.backbones.blank import Blank, blank
from vgen.conditions.pictures import picture_of
from vgen.formats.adapter import Card, save_adapter
from vgen.methods import assemble
from vgen.methods.control_net import ControlNets, Shown
from vgen.methods.dreampose import DreamPose
from vgen.metrics.kinds.control import AskedControl, Control, Picture
from vgen.metrics.suite import Kind, Suite, Task, tasks
from vgen.toybox.renderer import render

SHAPES = {
    "edges": (16, 32, 32),
    "mask": (16, 32, 32),
    "depth": (16, 32, 32),
    "pose": (16, 1, 17, 3),
    "frames": (16, 3, 32, 32),
}


def asked(control: Control, reference: Picture = Picture.NONE) -> list[Task]:
    counts = {"iid": 2, "pair": 0, "triple": 0, "extrapolation": 0, "paraphrase": 0}
    return tasks(
        Suite(kind=Kind.CONTROL, control=AskedControl(control=control, reference=reference), **counts)
    )


@pytest.mark.parametrize("control", list(Control))
def test_every_control_is_a_picture_of_itself(control: Control) -> None:
    todo = asked(control)
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


def test_a_still_stands_beside_the_poses_with_its_channels_first() -> None:
    todo = asked(Control.POSE, Picture.OWN)
    fields = fields_of(todo, 32)
    assert set(fields) == {"pose", "reference", "background"}
    assert fields["reference"].shape == fields["background"].shape == (2, 1, 3, 32, 32)
    assert fields["reference"].dtype == torch.uint8
    still = todo[1].inputs(32).pictures["reference"][0]
    np.testing.assert_array_equal(fields["reference"][1, 0].permute(1, 2, 0).numpy(), still)


def test_noise_follows_the_clip_that_the_control_is_of() -> None:
    todo = asked(Control.EDGES)
    fields = fields_of(todo, 32, ("source", "flow"))
    assert fields["source"].shape == (2, 16, 3, 32, 32)
    assert fields["flow"].shape == (2, 15, 2, 32, 32)
    np.testing.assert_array_equal(
        fields["source"][0].permute(0, 2, 3, 1).numpy(), render(todo[0].scene, 32).video
    )


def test_who_needs_a_picture_is_told_how_to_ask_for_one() -> None:
    video_model = assemble(DreamPose(), blank(Blank.TOYBOX, seed=0).freeze())
    refuse_lacking(video_model, asked(Control.POSE, Picture.OWN)[0], "pose")
    with pytest.raises(ValueError, match=r"listens to reference; set suite\.control\.reference=own"):
        refuse_lacking(video_model, asked(Control.POSE)[0], "pose")


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


def test_a_clip_of_every_second_tick_has_half_the_frames_a_second() -> None:
    todo = tasks(Suite(iid=1, pair=0, triple=0, extrapolation=0, paraphrase=0, num_frames=8, stride_ticks=2))
    assert frame_rate_of(todo)["fps"].tolist() == [4.0]


def first(task: Task) -> np.ndarray:
    """The first frame of the truth, uint8 3 h w."""
    return np.moveaxis(render(task.scene, 32).video[0], -1, 0)
