"""Checkpoints that hear more than words, drawn and scored by ``vgen evaluate``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from vgen.app.evaluate import EvaluateRun, evaluate
from vgen.app.loading import SHIPPED, TOYBOX, load_backbone
from vgen.app.stacks import opened
from vgen.formats.adapter import Card, save_adapter
from vgen.layers.motion_module import MotionModuleSpec
from vgen.methods import assemble
from vgen.methods._sampling import SamplingOverrides
from vgen.methods.sparse_ctrl import SparseCtrl
from vgen.metrics.kinds.control import AskedControl, Control, Given
from vgen.metrics.suite import Kind, Suite

COUNTS = {"iid": 2, "pair": 0, "triple": 0, "extrapolation": 0, "paraphrase": 0}


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net that says something, over the shipped motion module."""
    recipe, model = SparseCtrl(motion=MotionModuleSpec(num_attentions=1, heads=4)), load_backbone(TOYBOX)
    draw = torch.Generator().manual_seed(0)
    named = {f"frames.{n}": p for n, p in assemble(recipe, model).modules["frames"].named_parameters()}
    tensors = {
        n: p.detach() + 0.02 * torch.randn(p.shape, generator=draw)
        for n, p in named.items()
        if not n.endswith("control_net.conv_in.weight")
    }
    base = [layer.as_base() for layer in opened(SHIPPED, "stack.motion.file=shipped", "motion")]
    path = tmp_path_factory.mktemp("run") / "adapter.safetensors"
    save_adapter(path, tensors, Card.of("sparse_ctrl", recipe, model, {}, {}, base=base))
    return path


def test_given_frames_reach_the_net_and_are_measured_through_the_codec(sparse: Path, tmp_path: Path) -> None:
    def found(name: str, given: Given) -> dict:
        suite = Suite(**COUNTS, kind=Kind.CONTROL, control=AskedControl(control=Control.FRAMES, given=given))
        run = EvaluateRun(
            adapter=str(sparse.parent),
            suite=suite,
            out=str(tmp_path / name),
            selftest=1,
            sampling=SamplingOverrides(num_steps=1, guidance=1.0),
        )
        done = evaluate(run, Console(quiet=True))
        assert done is not None
        rows = [json.loads(line) for line in (done.folder / "scores.jsonl").read_text().splitlines()]
        return {"rows": rows, "summary": done.summary}

    first, ends = found("first", Given.FIRST), found("ends", Given.ENDS)
    for row in (*first["rows"], *ends["rows"]):
        assert 20 < row["psnr_codec"] < 60
        assert 0 <= row["met"] <= 1
    assert first["summary"]["ceiling"]["held"] > 0.85, "the truth through the decoder is all that can be"
    assert [row["clip"] for row in first["rows"]] != [row["clip"] for row in ends["rows"]]
    assert (tmp_path / "first" / "report" / "index.html").is_file()
