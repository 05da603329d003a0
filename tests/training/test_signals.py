"""Signals: what was learnt is saved after the step, and the exit code says what to do next."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vgen.data.batch import Batch
from vgen.formats.adapter import load_adapter
from vgen.training.exits import REQUEUE, Stopped
from vgen.training.job import Job
from vgen.training.learner import Learner
from vgen.training.run import fit
from vgen.training.signals import HEARD, Signals

CODES = {
    signal.SIGUSR1: REQUEUE,
    signal.SIGUSR2: REQUEUE,
    signal.SIGHUP: REQUEUE,
    signal.SIGTERM: 143,
}


@pytest.fixture
def signal_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Send this process a signal in the training step after ``step`` steps."""

    def arrange(step: int, signum: int) -> None:
        run = Learner.training_step

        def told(self: Learner, batch: Batch, index: int) -> torch.Tensor:
            if self.trainer.global_step == step:
                os.kill(os.getpid(), signum)
            return run(self, batch, index)

        monkeypatch.setattr(Learner, "training_step", told)

    return arrange


def run(job: Job) -> Path:
    with Signals() as signals:
        job.signals = signals
        return fit(job)


def steps(folder: Path) -> list[int]:
    found = folder.glob("metrics*/metrics.csv")
    rows = [row for path in found for row in csv.DictReader(path.read_text().splitlines())]
    return sorted(int(row["step"]) for row in rows if row.get("train/loss"))


@pytest.mark.parametrize("signum", CODES)
def test_a_signal_saves_the_step_and_ends_with_its_code(
    quick: Callable[..., Job], signal_at: Any, caplog: pytest.LogCaptureFixture, signum: int
) -> None:
    signal_at(2, signum)
    before = signal.getsignal(signum)
    with caplog.at_level("WARNING"), pytest.raises(Stopped) as ended:
        run(quick(6))
    assert ended.value.code == CODES[signum]
    name = signal.Signals(signum).name
    assert f"stopped at step 3 by {name}; run.resume=auto goes on from step-0000003" in caplog.text
    assert signal.getsignal(signum) == before


def test_an_interrupt_saves_the_step_and_stays_an_interrupt(
    quick: Callable[..., Job], signal_at: Any, tmp_path: Path
) -> None:
    signal_at(0, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(quick(6))
    assert (tmp_path / "run" / "checkpoints" / "step-0000001" / "manifest.json").is_file()


def test_a_run_that_was_told_to_stop_goes_on_to_the_same_weights_and_one_curve(
    quick: Callable[..., Job], signal_at: Any, tmp_path: Path
) -> None:
    whole = quick(5)
    whole.folder = tmp_path / "whole"
    want = load_adapter(run(whole) / "adapter.safetensors")[0]
    signal_at(1, signal.SIGUSR1)
    with pytest.raises(Stopped):
        run(quick(5))
    folder = run(quick(5, resume=True))
    got = load_adapter(folder / "adapter.safetensors")[0]
    assert all(torch.equal(got[name], want[name]) for name in want)
    assert steps(folder) == steps(tmp_path / "whole")


def test_a_signal_within_the_last_step_finds_the_run_done(quick: Callable[..., Job], signal_at: Any) -> None:
    signal_at(2, signal.SIGTERM)
    assert (run(quick(3)) / "adapter.safetensors").is_file()


@pytest.mark.parametrize("signum", HEARD)
def test_before_the_first_step_a_signal_ends_at_once(signum: int) -> None:
    with pytest.raises((Stopped, KeyboardInterrupt)), Signals():
        signal.raise_signal(signum)


def test_a_run_whose_folder_has_gone_to_another_stops_and_saves_nothing(
    quick: Callable[..., Job], tmp_path: Path
) -> None:
    job = quick(3)
    job.is_lost = lambda: True
    with pytest.raises(ValueError, match="was taken over by another process while this one was away"):
        run(job)
    assert not list((tmp_path / "run" / "checkpoints").glob("step-*"))


def test_a_batch_script_learns_that_a_run_is_to_be_requeued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_REQUEUE_FLAG", str(tmp_path / "flag"))
    Stopped(143, "SIGTERM")
    assert not (tmp_path / "flag").exists()
    Stopped(REQUEUE, "SIGUSR1")
    assert (tmp_path / "flag").exists()


def test_what_lightning_started_ends_with_0_since_lightning_kills_for_other_codes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert Stopped(REQUEUE, "SIGUSR1").code == 0
