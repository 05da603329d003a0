"""Steps that are not finite: skipped, then back once, then the end, and no promise that nobody can keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vgen.data.batch import Batch
from vgen.formats.adapter import load_adapter
from vgen.training.checkpoint_folder import opened
from vgen.training.job import Job
from vgen.training.learner import Learner
from vgen.training.optimisation import Optimiser
from vgen.training.run import fit


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], bool]], None]:
    """Make the clips of the steps that are named nan, and so loss and gradients."""

    def arrange(is_poisoned: Callable[[int], bool]) -> None:
        run = Learner.training_step

        def poisoned(self: Learner, batch: Batch, index: int) -> torch.Tensor:
            if is_poisoned(self.trainer.global_step):
                batch.fields["latents"] = batch.fields["latents"] * float("nan")
            return run(self, batch, index)

        monkeypatch.setattr(Learner, "training_step", poisoned)

    return arrange


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "weights.safetensors")


@pytest.mark.parametrize("kind", [Optimiser.ADAMW, Optimiser.MUON])
def test_a_step_that_is_not_finite_changes_nothing(
    quick: Callable[..., Job], poison: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path, kind: Optimiser
) -> None:
    poison(lambda step: step == 2)
    job = quick(4, checkpoint_every_steps=1, keep_last=9)
    job.optimisation = replace(job.optimisation, kind=kind)
    with caplog.at_level("WARNING"):
        folder = fit(job)
    assert "the last 1 steps up to step 3 are not finite and were skipped" in caplog.text
    kept = tmp_path / "run" / "checkpoints"
    assert not (kept / "step-0000003").exists(), "nothing is saved while steps are skipped"
    values = load_adapter(folder / "adapter.safetensors")[0]
    assert all(torch.isfinite(value).all() for value in values.values())
    before, after = weights(kept / "step-0000002"), weights(kept / "step-0000004")
    assert any(not torch.equal(before[name], after[name]) for name in before), "it goes on afterwards"


def test_many_of_them_bring_the_last_sound_checkpoint_back_once(
    quick: Callable[..., Job], poison: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    poison(lambda step: 3 <= step < 6)
    with caplog.at_level("WARNING"):
        fit(quick(8, checkpoint_every_steps=3, max_skipped_steps=2, keep_last=9))
    assert "3 steps up to step 6 were not finite; the weights, moments and averages of step-0000003" in (
        caplog.text
    )
    kept = tmp_path / "run" / "checkpoints"
    sound, again = weights(kept / "step-0000003"), weights(kept / "step-0000006")
    assert all(torch.equal(sound[name], again[name]) for name in sound)
    assert opened(kept / "step-0000008").state.record["went_back"] == {
        "at_step": 6,
        "to": "step-0000003",
    }


def test_the_second_time_the_run_stops(quick: Callable[..., Job], poison: Any) -> None:
    poison(lambda step: step >= 2)
    with pytest.raises(
        ValueError,
        match=r"the loss is nan at step 6 and 2 steps in a row were not finite; step-0000004 is the",
    ):
        fit(quick(9, checkpoint_every_steps=2, max_skipped_steps=1))


def test_before_its_first_checkpoint_a_run_promises_none(quick: Callable[..., Job], poison: Any) -> None:
    poison(lambda step: True)
    with pytest.raises(
        ValueError,
        match=r"at step 2 and 2 steps in a row .*; no checkpoint was due yet, so nothing of it is kept",
    ):
        fit(quick(9, max_skipped_steps=1))


def test_a_run_does_not_end_well_on_skipped_steps(quick: Callable[..., Job], poison: Any) -> None:
    poison(lambda step: step == 2)
    with pytest.raises(ValueError, match=r"at step 3 and 1 steps in a row were not finite"):
        fit(quick(3))
