"""``vgen checkpoints``: what it lists is what is there, what it deletes is never the last sound one."""

from __future__ import annotations

import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vgen.app import checkpoints
from vgen.app.checkpoints import BEST
from vgen.formats.adapter import load_adapter
from vgen.formats.tensor_file import Entry
from vgen.training import checkpoint_folder as room
from vgen.training.checkpoint_folder import AVERAGES, MOMENTS, WEIGHTS, State

CARD = {
    "recipe": "animatediff",
    "knobs": {},
    "backbone": "b",
    "backbone_source": "toybox",
    "run": {},
    "summary": {},
    "format": "vgen-adapter-2",
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with checkpoints of steps 2, 4 and 6, the best of step 4, and what a killed process left."""
    kept = tmp_path / "run" / "checkpoints"
    kept.mkdir(parents=True)
    for step in (2, 4, 6):
        value = {"unet.inserted.a": Entry.of(torch.full((3,), float(step)))}
        average = {"unet.inserted.a": Entry.of(torch.full((3,), -float(step)))}
        state = State(
            step=step,
            samples=2 * step,
            record={"card": CARD, "run": {"seed": 1}},
            optimizer="adamw",
            optimizer_steps={},
            scheduler={},
        )
        room.write(kept / f"step-{step:07d}", {WEIGHTS: value, AVERAGES: average, MOMENTS: {}}, state)
        if step == 4:
            room.write(kept / BEST, {WEIGHTS: value}, replace(state, val_loss=0.5))
    left = kept / f".step-0000008.999999999@{socket.gethostname()}.tmp"
    left.mkdir()
    (left / WEIGHTS).write_bytes(b"half")
    return tmp_path / "run"


def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    monkeypatch.setattr(sys, "argv", ["vgen checkpoints", *map(str, arguments)])
    checkpoints.main()
    return capsys.readouterr().out


def test_what_is_there_is_listed(run: Path, monkeypatch, capsys) -> None:
    out = said(monkeypatch, capsys, run)
    for name in ("step-0000002", "step-0000006", "best", "val/loss 0.5 at step 4", "left over", "together"):
        assert name in out, name


def test_verifying_names_what_is_not_what_was_written(run: Path, monkeypatch, capsys) -> None:
    assert said(monkeypatch, capsys, run, "verify").count("sound") == 4
    (run / "checkpoints" / "step-0000004" / WEIGHTS).write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 of 4 checkpoints .* has 0 bytes"):
        said(monkeypatch, capsys, run, "verify")


def test_pruning_keeps_the_newest_sound_ones(run: Path, monkeypatch, capsys) -> None:
    kept = run / "checkpoints"
    (kept / "step-0000006" / WEIGHTS).write_bytes(b"")
    (kept / "step-0000002.ckpt").write_bytes(b"PK")
    out = said(monkeypatch, capsys, run, "prune")
    assert "step-0000006" in out
    assert "freed" in out
    assert sorted(path.name for path in kept.iterdir()) == ["best", "step-0000004"]
    (kept / "step-0000004" / WEIGHTS).write_bytes(b"")
    with pytest.raises(ValueError, match="no sound checkpoint to keep; nothing was deleted"):
        said(monkeypatch, capsys, run, "prune")


@pytest.mark.parametrize(("step", "value"), [("", -6.0), ("step=2", -2.0), ("step=best", 4.0)])
def test_an_adapter_of_any_checkpoint(run: Path, monkeypatch, capsys, step: str, value: float) -> None:
    out = run.parent / "a.safetensors"
    said(monkeypatch, capsys, run, "export", f"out={out}", *([step] if step else []))
    tensors, card = load_adapter(out)
    assert torch.equal(tensors["unet.inserted.a"], torch.full((3,), value))
    assert card.summary == {"steps": abs(int(value)), "clips": 2 * abs(int(value))}
    assert card.run == {"seed": 1}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), r"give a run and what to do"),
        (("run", "burn"), r"burn is nothing that can be done"),
        (("run", "prune", "out=a"), r"out is not a key of 'vgen checkpoints RUN prune'"),
        (("nowhere",), r"nowhere holds no checkpoints"),
        (("run", "prune", "keep=0"), r"keep=0 is no count"),
        (("run", "export"), r"out= names no file to write"),
        (("run", "export", "out=a.safetensors", "step=x"), r"step=x is neither a step nor best"),
        (("run", "export", "out=a.safetensors", "step=3"), r"step-0000003 holds no manifest\.json"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(
    run: Path, monkeypatch, capsys, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(run.parent)
    with pytest.raises(ValueError, match=says):
        said(monkeypatch, capsys, *arguments)


def test_an_image_model_is_no_adapter(run: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(CARD, "recipe", "latent_diffusion")
    found = room.opened(run / "checkpoints" / "step-0000006")
    shelf = {name: Entry.of(value) for name, value in found.tensors(WEIGHTS).items()}
    state = replace(found.state, record={"card": CARD})
    room.write(found.folder, {WEIGHTS: shelf}, state)
    with pytest.raises(ValueError, match="trains the image model itself"):
        said(monkeypatch, capsys, run, "export", f"out={run / 'a.safetensors'}")


def test_converting_says_when_there_is_nothing_to_do(run: Path, monkeypatch, capsys) -> None:
    assert "nothing to convert" in said(monkeypatch, capsys, run, "convert")
