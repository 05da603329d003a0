"""The demo at its smallest: every stage runs on the shipped model and leaves what it says."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console

from vgen.app import cli, demo_steps
from vgen.app.config import TrainRun
from vgen.app.demo import demo
from vgen.app.loading import Backbone
from vgen.backbones.blank import Blank
from vgen.data.clips import Window
from vgen.methods.animatediff import AnimateDiff
from vgen.training.corpus import Corpus
from vgen.training.strategies import Accelerator, TrainerSettings


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    console = Console(record=True, quiet=False, file=io.StringIO(), width=200)
    found = demo(out, steps=2, num_clips=2, console=console)
    assert re.search(r"coherence: untrained [\d.]+ \[.*trained .*shipped [\d.]+ \[", console.export_text())
    assert set(found.summary["checkpoints"]) == {"untrained", "trained", "shipped"}
    report = out / "evaluation" / "report"
    assert "shipped" in (report / "index.html").read_text(encoding="utf-8")
    assert len(list((report / "clips").glob("*.mp4"))) == 2 * 4, (
        "two captions: the truth and three checkpoints"
    )
    assert len(list((out / "clips").glob("*.gif"))) == 1
    assert {p.name for p in (out / "exports").iterdir()} == {"motion_module.safetensors", "motion_adapter"}
    assert {p.name for p in out.iterdir()} == {
        "shards",
        "trained",
        "exports",
        "clips",
        "evaluation",
        ".vgen-demo",
    }


def test_demo_keeps_what_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="was not made by vgen demo"):
        demo(tmp_path, steps=1, num_clips=1, console=Console(quiet=True))


@pytest.fixture
def vgen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the command in a folder of its own up to the first stage; an earlier demo is in ``out``, with a
    file of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vgen"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    for name in ("shards", "clips", "trained"):
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "old").touch()
    (tmp_path / "out" / "notes.txt").touch()
    (tmp_path / "out" / ".vgen-demo").touch()
    return lambda *arguments: cli.run("demo", list(arguments))


REFUSED = {
    "steps=abc": "steps must be a whole number of at least 1, got abc; the default is steps=400",
    "steps=0": "steps must be a whole number of at least 1, got 0",
    "clips=-1": "clips must be a whole number of at least 1, got -1; the default is clips=24",
    "clips=0": "clips must be a whole number of at least 1, got 0",
    "clips=": "clips must be a whole number of at least 1, got nothing",
    "out=": "out names the folder for the report and the clips, got nothing",
    "out=out/notes.txt": "out=out/notes.txt is a file and the demo writes a folder",
    "out=link": "out=link is a link and the demo writes a folder",
    "out=.": "out=. exists and was not made by vgen demo",
    "out=out/notes.txt/deeper": "out/notes.txt/deeper can't be written to (Not a directory)",
    "foo=1": "vgen demo has no foo=1; it has out=, steps=, clips=",
}


@pytest.mark.parametrize(("argument", "sentence"), REFUSED.items())
def test_what_cannot_be_is_refused_before_anything_is_removed(
    vgen, tmp_path: Path, capfd: pytest.CaptureFixture[str], argument: str, sentence: str
) -> None:
    (tmp_path / "link").symlink_to("out")
    before = sorted(tmp_path.rglob("*"))
    assert vgen("out=out", argument) == cli.REFUSED
    said = capfd.readouterr().err
    assert said.startswith(f"vgen demo: {sentence}")
    assert said.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("steps", "num_clips"), [(0, 1), (1, 0), (1, -1)])
def test_the_stages_own_rules_come_first(vgen, tmp_path: Path, steps: int, num_clips: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        demo(tmp_path / "out", steps, num_clips, Console(quiet=True))
    assert (tmp_path / "out" / "trained" / "old").is_file()


def test_an_earlier_demo_goes_and_the_users_files_stay(
    vgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is killed on the way."""

    def stopped(*_) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", stopped)
        assert vgen("out=out") == cli.INTERRUPTED
    monkeypatch.setattr("vgen.app.demo.prepare", stopped)
    assert vgen("out=out") == cli.INTERRUPTED
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"notes.txt", ".vgen-demo"}


@pytest.mark.parametrize(
    ("each", "steps", "words"),
    [
        (0.5, 400, "a step takes 0.5 s here: all 400 steps, 3.3 min"),
        (1.2, 200, "200 steps (4.0 min) in place of 400 (8.0 min)"),
        (2.9, 100, "100 steps (4.8 min) in place of 400 (19.3 min)"),
        (60.0, 100, "vgen demo steps=400 trains them"),
    ],
)
def test_the_pace_chooses_the_steps_and_says_so(each: float, steps: int, words: str) -> None:
    assert demo_steps.chosen(each) == steps
    assert words in demo_steps.said(steps, each)


def test_a_few_steps_are_tried_and_leave_nothing(
    tmp_path: Path, toy_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_steps, "LADDER", (40, 20, 10))
    monkeypatch.setattr(demo_steps, "PATIENCE_SECONDS", 1e-9)
    run = TrainRun(
        method=AnimateDiff(),
        backbone=Backbone(blank=Blank.TOYBOX),
        data=Corpus(path=str(toy_shards), window=Window(num_frames=2), batch_size=2, val_clips=2, cache=True),
        trainer=TrainerSettings(accelerator=Accelerator.CPU, max_steps=40),
    )
    console = Console(record=True, file=io.StringIO(), width=200)
    found = demo_steps.paced(run, tmp_path / "trial", console)
    settings = found.trainer
    assert (settings.max_steps, settings.val_every_steps, settings.checkpoint_every_steps) == (10, 5, 10)
    assert found.run == run.run
    assert "10 steps" in console.export_text()
    assert not list(tmp_path.iterdir())
