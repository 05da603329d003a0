"""A run with an audit ledger: what was killed and trained on anew counts once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vgen.app import checkpoints
from vgen.data.batch import Batch
from vgen.data.clips import Window
from vgen.training.job import Job
from vgen.training.learner import Learner
from vgen.training.run import fit

Quick = Callable[..., Job]


class Killed(BaseException):
    """As by kill -9."""


def audited(made: Job, **corpus: Any) -> Job:
    return replace(made, corpus=replace(made.corpus, **{"audit": True, "val_clips": 15} | corpus))


def killed_in(monkeypatch: pytest.MonkeyPatch, wish: Job, step: int) -> None:
    run = Learner.training_step

    def ending(self: Learner, batch: Batch, index: int) -> torch.Tensor:
        if self.trainer.global_step == step:
            raise Killed
        return run(self, batch, index)

    monkeypatch.setattr(Learner, "training_step", ending)
    with pytest.raises(Killed):
        fit(wish)
    monkeypatch.setattr(Learner, "training_step", run)


def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: Path) -> str:
    monkeypatch.setattr(sys, "argv", ["vgen checkpoints", str(run), "audit"])
    capsys.readouterr()
    checkpoints.main()
    return capsys.readouterr().out.strip()


def test_a_killed_run_that_went_on_with_other_batches_has_every_sample_once(
    quick: Quick, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    killed_in(monkeypatch, audited(quick(5, checkpoint_every_steps=2)), 3)
    lines = (tmp_path / "run" / "audit" / "rank-0.jsonl").read_text().splitlines()
    assert [line[:9] for line in lines] == ['{"step": '] * 4, "the step that was killed was written before"
    sentence = "4 samples in 1 epoch (of the last 4 of 5), none lost, none repeated, up to step 2"
    assert told(monkeypatch, capsys, tmp_path / "run") == sentence
    fit(audited(quick(5, resume=True, checkpoint_every_steps=2, accumulate=2), batch_size=1))
    sentence = "10 samples in 2 epochs, none lost, none repeated, up to step 5"
    assert told(monkeypatch, capsys, tmp_path / "run") == sentence
    path = tmp_path / "run" / "audit" / "rank-0.jsonl"
    lines = path.read_text().splitlines()
    assert lines.count('{"resumed": 2}') == 1
    path.write_text("\n".join(line for line in lines if line != '{"resumed": 2}') + "\n")
    with pytest.raises(
        ValueError, match=r"^audit of \S+/run: up to step 5: 4 repeated: \S+ \(epoch 0\) 2 times"
    ):
        told(monkeypatch, capsys, tmp_path / "run")


def test_without_it_nothing_is_kept(
    quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(quick(1))
    assert not (tmp_path / "run" / "audit").exists()
    with pytest.raises(ValueError, match=r"run keeps no audit ledger; train with data\.audit=true"):
        told(monkeypatch, capsys, tmp_path / "run")
    with pytest.raises(ValueError, match=r"was begun without data\.audit=true, whose ledger begins with the"):
        fit(audited(quick(2, resume=True), val_clips=4))


def test_a_ledger_is_neither_left_nor_carried_to_other_samples(quick: Quick) -> None:
    fit(audited(quick(1)))
    with pytest.raises(
        ValueError, match=r"keeps an audit ledger, which data\.audit=false would leave with a gap"
    ):
        fit(audited(quick(2, resume=True), audit=False))
    with pytest.raises(
        ValueError, match=r"begun on other samples \(5 clips, 2 a step\) than those of now \(4 "
    ):
        fit(audited(quick(2, resume=True), val_clips=16))


def test_stills_and_clips_are_counted_apart(
    quick: Quick,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    other_shards: Path,
) -> None:
    wish = audited(quick(4), stills=str(other_shards), stills_share=0.5, window=Window(num_frames=2))
    fit(wish)
    sentence = (
        "clips: 4 samples in 1 epoch (of the last 4 of 5); stills: 4 samples in 2 epochs (of the last 1 of "
        "3), none lost, none repeated, up to step 4"
    )
    assert told(monkeypatch, capsys, tmp_path / "run") == sentence


@pytest.fixture(scope="session")
def other_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips, whose ids other clips have, too."""
    from vgen.data.prepare import Prepare, prepare
    from vgen.data.toybox import ToyboxSource

    out = tmp_path_factory.mktemp("other") / "toy"
    source = ToyboxSource(num_clips=3, seed=6)
    prepare(Prepare(data=source, out=str(out), num_frames=8, num_processes=1), lambda *_: None)
    return out
