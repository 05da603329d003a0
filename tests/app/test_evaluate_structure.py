"""A suite of edits under methods that draw along control pictures: they are shown those of the true clip."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from vgen.app.evaluate import EvaluateRun, evaluate
from vgen.app.judging.controls import fields_of_source
from vgen.app.judging.suite_edits import Editor, Tune
from vgen.app.loading import UNTRAINED, load_backbone, open_checkpoint
from vgen.app.stacks import StackEntry
from vgen.formats.adapter import Card, save_adapter
from vgen.methods import Recipe, assemble
from vgen.methods._sampling import SamplingOverrides
from vgen.methods.control_net import ControlNets, Shown
from vgen.methods.controlvideo_free import ControlVideoFree
from vgen.methods.controlvideo_oneshot import ControlVideoOneShot
from vgen.methods.rerender import Rerender
from vgen.metrics.suite import Kind, Suite, tasks
from vgen.toybox.renderer import render

SUITE = Suite(
    kind=Kind.EDIT, iid=2, pair=0, triple=0, extrapolation=0, paraphrase=0, num_frames=3, stride_ticks=4
)
FEW = SamplingOverrides(num_steps=2, guidance=2.0)


def written(folder: Path, shown: Shown, seed: int = 3) -> StackEntry:
    """A ControlNet with something in its zero convolutions, as an adapter."""
    model, recipe = load_backbone("toybox"), ControlNets(condition=shown)
    video_model = assemble(recipe, model)
    net = video_model.modules[shown.value]
    torch.manual_seed(seed)
    for p in net.silent_outputs():
        torch.nn.init.normal_(p.data, std=0.3)
    tensors = {f"{shown.value}.{n}": p.detach() for n, p in net.named_parameters()}
    save_adapter(folder / "adapter.safetensors", tensors, Card.of("control_net", recipe, model, {}, {}))
    return StackEntry(name=shown.value, file=str(folder))


@pytest.fixture(scope="module")
def edges(tmp_path_factory: pytest.TempPathFactory) -> StackEntry:
    return written(tmp_path_factory.mktemp("edges"), Shown.EDGES)


def editor(method: Recipe, net: StackEntry, tune: Tune | None = None) -> Editor:
    return Editor(
        recipe=method,
        sampling=FEW,
        tune=tune or Tune(),
        open=lambda: open_checkpoint(UNTRAINED, "toybox", "cpu", untrained=method, stack=[net]),
    )


def test_what_is_shown_are_the_edges_of_the_true_source(edges: StackEntry) -> None:
    """Not of the edited scene, where a thing may have another shape."""
    opened = open_checkpoint(UNTRAINED, "toybox", "cpu", untrained=ControlVideoFree(), stack=[edges])
    task = next(t for t in tasks(replace(SUITE, iid=8)) if t.id.endswith("reshape"))
    given = fields_of_source(task, opened.video_model, 64, ())
    assert list(given) == ["edges"]
    assert np.array_equal(given["edges"][0], render(task.about.scene, 64).edges())
    assert not np.array_equal(given["edges"][0], render(task.scene, 64).edges())
    assert fields_of_source(task, opened.video_model, 64, ("edges",)) == {}


@pytest.mark.parametrize(
    "method", [ControlVideoFree(), Rerender(interval=1)], ids=["controlvideo_free", "rerender"]
)
def test_pictures_are_heard_and_a_clip_does_not_depend_on_those_beside_it(
    method: Recipe, edges: StackEntry
) -> None:
    todo = tasks(SUITE)
    both = editor(method, edges)(todo)
    assert both.shape == (2, 3, 64, 64, 3)
    assert np.array_equal(both[1:], editor(method, edges)(todo[1:]))
    assert not np.array_equal(both, editor(method, replace(edges, scale=0.0))(todo))


def test_one_shot_is_taught_along_them(edges: StackEntry, tmp_path: Path) -> None:
    method, todo, tune = ControlVideoOneShot(), tasks(SUITE)[:1], Tune(num_steps=2, lr=1e-2)
    taught = editor(method, edges, tune)
    [first] = taught(todo)
    assert np.array_equal(first, taught(todo)[0]), "taught anew, and the net beneath is as it was"
    assert not np.array_equal(first, editor(method, edges)(todo)[0])
    other = editor(method, written(tmp_path, Shown.EDGES, seed=4), tune)(todo)[0]
    assert not np.array_equal(first, other), "the net lies beneath what learns"


def test_the_whole_way_leaves_warp_and_what_a_clip_costs(edges: StackEntry, tmp_path: Path) -> None:
    run = EvaluateRun(
        suite=replace(SUITE, iid=1),
        suite_name="edit",
        method=ControlVideoFree(),
        stack=[edges],
        sampling=FEW,
        selftest=1,
        out=str(tmp_path),
    )
    found = evaluate(run, Console(quiet=True)).summary["checkpoints"]["controlvideo_free"]
    assert found["overall"]["warp"]["mean"] >= 0
    assert found["cost"]["peak_gib"] > 0.1
    assert found["identity"]["stack"][0]["name"] == "edges"


@pytest.mark.parametrize(
    ("method", "more"),
    [(ControlVideoFree(), {}), (Rerender(), {}), (ControlVideoOneShot(), {"tune": Tune(num_steps=1)})],
    ids=["controlvideo_free", "rerender", "controlvideo_oneshot"],
)
def test_a_missing_control_net_is_refused_before_anything_is_drawn(
    method: Recipe, more: dict, tmp_path: Path
) -> None:
    run = EvaluateRun(suite=SUITE, suite_name="edit", method=method, out=str(tmp_path / "out"), **more)
    with pytest.raises(
        ValueError, match=r"none is there; give stack\.edges\.file=RUN, .* edges, mask, depth"
    ):
        evaluate(run, Console(quiet=True))
    assert not (tmp_path / "out").exists()


def test_a_net_for_what_no_clip_has_is_named(tmp_path: Path) -> None:
    poses = written(tmp_path, Shown.POSE)
    with pytest.raises(ValueError, match="listens to pose, and a suite of edit has of its clips edges, mask"):
        editor(ControlVideoFree(), poses)(tasks(SUITE)[:1])
