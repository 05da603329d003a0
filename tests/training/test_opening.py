"""A training says what it is about to do; options that do nothing together are refused; a short run has
figures too."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vgen.app.loading import Backbone
from vgen.app.verbs import VERBS
from vgen.backbones.blank import Blank
from vgen.data.files import lines_of
from vgen.training.corpus import Corpus
from vgen.training.job import Job
from vgen.training.opening import checkpoint_bytes
from vgen.training.optimisation import Optimisation, Optimiser
from vgen.training.run import fit
from vgen.training.strategies import TrainerSettings


def test_a_training_opens_with_a_summary_and_a_short_one_has_figures(
    quick: Callable[..., Job], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level("INFO"):
        folder = fit(quick(5, log_every_steps=50))
    [said] = [record.getMessage() for record in caplog.records if record.getMessage().startswith("training")]
    found = dict(re.split(r"  +", line, maxsplit=1) for line in said.split("\n"))
    assert list(found) == ["training", "clips", "steps", "parameters", "device", "disk"]
    assert re.fullmatch(r"\d+ to learn from, 4 held out; 2 frames of \d+ x \d+ px", found["clips"])
    assert re.match(r"5 of 2 clips, \d+ an epoch: \d\.\d epochs", found["steps"])
    assert re.fullmatch(r"\d\.\d M parameters learn, \d\.\d M parameters are frozen", found["parameters"])
    assert re.fullmatch(r"CPU, \d+ threads?; fp32", found["device"])
    assert re.match(r"at most \d+ MB of checkpoints in .*, where .* are free", found["disk"])
    assert re.search(r"train: 2 steps are left, .* at \d+\.\d\d s each", capsys.readouterr().out)
    [figures] = folder.glob("metrics*/*.csv")
    rows = list(csv.DictReader(lines_of(figures.read_text())))
    assert [row["step"] for row in rows if row.get("train/loss")] == ["4"]
    assert [row["step"] for row in rows if row.get("speed/clips_per_s")] == ["4"]


@pytest.mark.parametrize("kind", Optimiser)
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_the_disk_that_is_foretold_holds_what_is_written(
    quick: Callable[..., Job], kind: Optimiser, ema_decay: float
) -> None:
    job = quick(4, checkpoint_every_steps=1, val_every_steps=2)
    job.optimisation = Optimisation(kind=kind, ema_decay=ema_decay, lr=1e-3)
    folder = fit(job)
    written = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    size = (folder / "adapter.safetensors").stat().st_size
    foretold = checkpoint_bytes(job.settings, job.optimisation, size // 4)
    assert 0.6 * foretold <= written <= 1.02 * foretold


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Corpus(path="d", size_px=64),
            r"data\.size_px=64 is of one clip.* does nothing beside data\.path=d",
        ),
        (lambda: Corpus(path="d", prompt="a"), r"data\.prompt=a is of one clip"),
        (lambda: Corpus(path="d", fps=4.0), r"data\.fps=4\.0 is of one clip"),
        (lambda: Corpus(video="v", val_path="d"), r"data\.val_path=d does nothing beside data\.video=v"),
        (lambda: Corpus(path="d", cache_dir="c"), r"data\.cache_dir=c does nothing without a cache"),
        (
            lambda: Backbone(path="f", blank=Blank.TOYBOX),
            r"backbone\.path=f and backbone\.blank=toybox are both",
        ),
        (lambda: Backbone(seed=3), r"backbone\.seed=3 draws the random weights of backbone\.blank"),
    ],
)
def test_options_that_do_nothing_together_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_help_of_train_names_what_is_set_first() -> None:
    page = VERBS["train"].page("train")
    for key in ("size_px", "data.window.num_frames", "optim.lr", "callbacks.prompts"):
        assert key in page


def test_a_short_run_logs_once() -> None:
    assert TrainerSettings(max_steps=3).figures_every_steps == 3
    assert TrainerSettings(max_steps=30).figures_every_steps == 10


def test_nothing_is_foretold_of_a_folder_that_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vgen.training import opening

    class Usage:
        free = 10**6

    monkeypatch.setattr(opening.shutil, "disk_usage", lambda _: Usage)
    said = opening.told_disk(TrainerSettings(), Optimisation(), 10**6, tmp_path)
    assert said.endswith("where 1 MB are free; that does not fit")


def test_a_run_that_is_worth_it_foretells_its_memory(
    quick: Callable[..., Job], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vgen.training import opening

    monkeypatch.setattr(opening, "WORTH_STEPS", 2)
    with caplog.at_level("INFO"):
        fit(quick(2))
    [said] = [record.getMessage() for record in caplog.records if record.getMessage().startswith("training")]
    [row] = [line for line in said.split("\n") if line.startswith("memory")]
    assert re.match(r"memory +about \d+ MB at the peak, foretold from shapes, beside torch itself", row)


def test_what_cannot_be_foretold_is_said_and_stops_nothing(
    quick: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vgen.training import opening

    def fails(step: object) -> None:
        raise RuntimeError("no shape\nfor this")

    monkeypatch.setattr(opening, "WORTH_STEPS", 2)
    monkeypatch.setattr(opening, "counts_of", fails)
    assert (fit(quick(2)) / "adapter.safetensors").is_file()
    job = quick(2)
    assert opening.told_memory(opening.Step(**STEP | {"settings": job.settings})) == (
        "not foretold (RuntimeError: no shape for this)"
    )


STEP: dict[str, Any] = {
    "recipe": None,
    "model": None,
    "optimisation": None,
    "clips": None,
    "on_gpu": False,
}
