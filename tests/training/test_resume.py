"""Runs that are stopped, by whatever: nothing is lost, nothing comes twice, and nobody takes half a run for a
whole one."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from vgen.app.train import claim
from vgen.backbones.blank import Blank, blank
from vgen.data.batch import Batch
from vgen.data.clips import Window
from vgen.formats import tensor_file
from vgen.formats.adapter import load_adapter
from vgen.layers.motion_module import MotionModuleSpec
from vgen.methods._sampling import Sampling
from vgen.methods.animatediff import AnimateDiff
from vgen.methods.image.latent_diffusion import LatentDiffusion
from vgen.training import checkpoint_folder as room
from vgen.training.checkpoint_folder import AVERAGES, WEIGHTS
from vgen.training.checkpoints import latest
from vgen.training.corpus import Corpus
from vgen.training.job import Job
from vgen.training.learner import Learner
from vgen.training.optimisation import Optimisation, Optimiser
from vgen.training.records import LoggerSettings
from vgen.training.run import fit
from vgen.training.samples import SampleSettings
from vgen.training.strategies import Precision, Spread, TrainerSettings


def job(
    folder: Path,
    shards: Path,
    steps: int,
    *,
    resume: bool = False,
    seed: int = 3,
    batch_size: int = 2,
    **settings: Any,
) -> Job:
    usual: dict[str, Any] = {
        "val_every_steps": 5,
        "checkpoint_every_steps": 2,
        "log_every_steps": 1,
        "num_threads": 1,
        "preflight": False,
    }
    return Job(
        recipe=AnimateDiff(motion=MotionModuleSpec(heads=4)),
        model=blank(Blank.TOYBOX, seed=0),
        corpus=Corpus(
            path=str(shards), window=Window(num_frames=2), batch_size=batch_size, val_clips=4, cache=True
        ),
        optimisation=Optimisation(lr=1e-3, warmup_steps=2, ema_decay=0.9),
        settings=TrainerSettings(max_steps=steps, **usual | settings),
        logger=LoggerSettings(),
        samples=SampleSettings(),
        folder=folder,
        name=folder.name,
        seed=seed,
        resume=resume,
        plain={"note": "test"},
    )


class Killed(BaseException):
    """As by kill -9: no hook of ours writes anything after it."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of all training batches, in order."""
    keys: list[str] = []
    step = Learner.training_step

    def counted(self: Learner, batch: Batch, index: int) -> torch.Tensor:
        keys.extend(str(key) for key in batch.keys)
        return step(self, batch, index)

    monkeypatch.setattr(Learner, "training_step", counted)
    return keys


@pytest.fixture
def end_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Raise in the training step after ``step`` steps."""
    handler = signal.getsignal(signal.SIGINT)

    def arrange(step: int, error: BaseException) -> None:
        run = Learner.training_step

        def ending(self: Learner, batch: Batch, index: int) -> torch.Tensor:
            if self.trainer.global_step == step:
                monkeypatch.setattr(Learner, "training_step", run)
                raise error
            return run(self, batch, index)

        monkeypatch.setattr(Learner, "training_step", ending)

    yield arrange
    signal.signal(signal.SIGINT, handler)  # Lightning ignores it once it was interrupted


@pytest.mark.parametrize(
    ("accumulate", "killed_at", "batches_lost"),
    [(1, 3, 1), pytest.param(1, 7, 1, marks=pytest.mark.slow), pytest.param(2, 3, 2, marks=pytest.mark.slow)],
)
def test_a_killed_run_goes_on_with_the_samples_that_an_uninterrupted_one_sees(
    tmp_path: Path,
    toy_shards: Path,
    seen: list[str],
    end_at: Any,
    accumulate: int,
    killed_at: int,
    batches_lost: int,
) -> None:
    whole = fit(job(tmp_path / "whole", toy_shards, 10, accumulate=accumulate))
    want, seen[:] = list(seen), []
    end_at(killed_at, Killed())
    with pytest.raises(Killed):
        fit(job(tmp_path / "parts", toy_shards, 10, accumulate=accumulate))
    done = len(seen)
    parts = fit(job(tmp_path / "parts", toy_shards, 10, resume=True, accumulate=accumulate))
    at = done - 2 * batches_lost
    assert seen[done:] == want[at:], "from the last checkpoint on, the same order"
    a, b = (load_adapter(folder / "adapter.safetensors")[0] for folder in (whole, parts))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_batches_of_a_step_may_change_and_the_samples_stay(
    tmp_path: Path, toy_shards: Path, seen: list[str], end_at: Any
) -> None:
    """Half the memory: the same global batch in two parts."""
    fit(job(tmp_path / "whole", toy_shards, 8, batch_size=4))
    want, seen[:] = list(seen), []
    end_at(3, Killed())
    with pytest.raises(Killed):
        fit(job(tmp_path / "parts", toy_shards, 8, batch_size=4))
    seen.clear()
    fit(job(tmp_path / "parts", toy_shards, 8, batch_size=2, accumulate=2, resume=True))
    assert seen == want[2 * 4 :]


@pytest.mark.parametrize(
    ("steps", "every", "val"),
    [
        (3, 200, 200),
        pytest.param(4, 2, 3, marks=pytest.mark.slow),
        pytest.param(3, 1, 2, marks=pytest.mark.slow),
    ],
)
def test_a_finished_run_has_its_last_step_and_can_be_extended(
    tmp_path: Path, toy_shards: Path, seen: list[str], steps: int, every: int, val: int
) -> None:
    settings = {"checkpoint_every_steps": every, "val_every_steps": val}
    fit(job(tmp_path / "whole", toy_shards, steps + 2, **settings))
    want, seen[:] = list(seen), []
    folder = fit(job(tmp_path / "run", toy_shards, steps, **settings))
    found = latest(folder / "checkpoints")
    assert found is not None
    assert found.folder.name == f"step-{steps:07d}"
    fit(job(folder, toy_shards, steps + 2, resume=True, **settings))
    assert seen == want
    assert len(list((folder / "checkpoints").glob("step-*"))) <= 2


def test_an_adapter_of_an_earlier_part_is_not_taken_for_the_result(tmp_path: Path, toy_shards: Path) -> None:
    folder = fit(job(tmp_path / "run", toy_shards, 2))
    before = (folder / "adapter.safetensors").read_bytes()
    fit(job(folder, toy_shards, 4, resume=True))
    want = (folder / "adapter.safetensors").read_bytes()
    (folder / "adapter.safetensors").write_bytes(before)  # killed between the last checkpoint and the adapter
    fit(job(folder, toy_shards, 4, resume=True))
    assert (folder / "adapter.safetensors").read_bytes() == want != before
    assert load_adapter(folder / "adapter.safetensors")[1].summary["steps"] == 4


def test_an_image_model_that_is_written_is_not_written_again(
    tmp_path: Path, toy_shards: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def wish(**settings: Any) -> Job:
        made = job(tmp_path / "run", toy_shards, 1, **settings)
        return replace(
            made, recipe=LatentDiffusion(), corpus=replace(made.corpus, window=Window(num_frames=1))
        )

    model = fit(wish()) / "image_model"
    before = {path: path.stat().st_mtime_ns for path in model.rglob("*")}
    with caplog.at_level("INFO"):
        fit(wish(resume=True))
    assert "the run is already at step 1 of 1" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in model.rglob("*")} == before
    (model / "vgen.json").unlink()  # killed while it was written
    fit(wish(resume=True))
    assert (model / "vgen.json").is_file()


def test_a_run_that_diverges_stops_and_writes_nothing_of_it(tmp_path: Path, toy_shards: Path) -> None:
    wish = job(tmp_path / "run", toy_shards, 6)
    wish.optimisation = Optimisation(lr=1e9, grad_clip=0.0)
    with pytest.raises(
        ValueError,
        match=r"training diverged: .*(the loss is nan|is not finite) at step .*optim\.lr",
    ):
        fit(wish)
    assert not (tmp_path / "run" / "adapter.safetensors").exists()
    for path in (tmp_path / "run" / "checkpoints").glob("*/"):
        found = room.opened(path)
        tensors = [value for file in found.names for value in found.tensors(file).values()]
        assert all(torch.isfinite(value).all() for value in tensors)


def test_what_is_not_finite_never_becomes_an_adapter(
    tmp_path: Path, toy_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poison(self: Learner) -> None:
        with torch.no_grad():
            next(iter(self.learning.values())).fill_(float("nan"))

    monkeypatch.setattr(Learner, "on_train_epoch_end", poison)
    wish = job(tmp_path / "run", toy_shards, 3)
    wish.optimisation = replace(wish.optimisation, ema_decay=0.0)
    with pytest.raises(ValueError, match=r"training diverged: unet\.\S+ is not finite at step 3; nothing"):
        fit(wish)
    assert not (tmp_path / "run" / "adapter.safetensors").exists()


def test_a_signal_ends_with_its_code_and_says_what_is_kept(
    tmp_path: Path, toy_shards: Path, end_at: Any, caplog: Any
) -> None:
    """A scheduler takes 0 for done."""
    end_at(3, SIGTERMException())
    with caplog.at_level("WARNING"), pytest.raises(SystemExit) as ended:
        fit(job(tmp_path / "run", toy_shards, 8))
    assert ended.value.code == 128 + signal.SIGTERM
    assert "stopped at step 3 by an interrupt; run.resume=auto goes on from step-0000002" in caplog.text
    end_at(1, KeyboardInterrupt())
    with caplog.at_level("WARNING"), pytest.raises(KeyboardInterrupt):
        fit(job(tmp_path / "other", toy_shards, 8))
    assert "stopped at step 1 by an interrupt; no checkpoint was due yet" in caplog.text


def test_the_best_checkpoint_stays_until_it_is_beaten(
    tmp_path: Path, toy_shards: Path, end_at: Any, monkeypatch: Any
) -> None:
    end_at(3, Killed())
    with pytest.raises(Killed):
        fit(job(tmp_path / "run", toy_shards, 8, val_every_steps=2))
    best = tmp_path / "run" / "checkpoints" / "best"
    before = room.opened(best)
    step = Learner.validation_step

    def worse(self: Learner, batch: Batch, index: int) -> None:
        self.log("val/loss", 9.0, batch_size=len(batch))

    monkeypatch.setattr(Learner, "validation_step", worse)
    fit(job(tmp_path / "run", toy_shards, 6, val_every_steps=2, resume=True))
    monkeypatch.setattr(Learner, "validation_step", step)
    after = room.opened(best)
    assert after == before
    assert after.state.val_loss is not None
    assert after.state.val_loss < 9
    assert set(after.names) == {WEIGHTS, AVERAGES}, "for use, not to go on from"


def test_a_checkpoint_says_what_run_it_is_of_and_refuses_another_order(
    tmp_path: Path, toy_shards: Path
) -> None:
    folder = fit(job(tmp_path / "run", toy_shards, 2))
    found = latest(folder / "checkpoints")
    assert found is not None
    assert (found.state.step, found.state.samples, found.state.ema_updates) == (2, 4, 2)
    assert found.state.record.pop("card")["recipe"] == "animatediff"
    assert found.state.record == {
        "run": {"note": "test"},
        "seed": 3,
        "global_batch": 2,
        "wandb_run_id": (folder / "run_id.txt").read_text(),
    }
    with pytest.raises(ValueError, match=r"begun with seed 3, now it is 4"):
        fit(job(folder, toy_shards, 4, resume=True, seed=4))
    with pytest.raises(ValueError, match=r"begun with global_batch 2, now it is 1"):
        fit(job(folder, toy_shards, 4, resume=True, batch_size=1))


def test_an_altered_newest_is_passed_over_and_a_poisoned_best_blocks_nothing(
    tmp_path: Path, toy_shards: Path, seen: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = fit(job(tmp_path / "run", toy_shards, 4, val_every_steps=2))
    want, seen[:] = list(seen), []
    kept = folder / "checkpoints"
    harm(kept / "step-0000004" / WEIGHTS)
    (kept / "best" / WEIGHTS).write_bytes(b"cut")
    with caplog.at_level("INFO"):
        fit(job(folder, toy_shards, 4, val_every_steps=2, resume=True))
    assert seen == want[2 * 2 :], "from step 2 on, the same order"
    assert "step-0000004/weights.safetensors is not what was written (sha256 differs)" in caplog.text
    assert "taken: step-0000002" in caplog.text
    assert "resuming step-0000002 at step 2" in caplog.text
    assert (kept / "step-0000004.unsound").is_dir()
    assert room.opened(kept / "step-0000004").state.step == 4
    assert room.opened(kept / "best").state.val_loss is not None


def harm(path: Path) -> None:
    payload = bytearray(path.read_bytes())
    payload[len(payload) // 2] ^= 1
    path.write_bytes(payload)


def test_a_run_whose_checkpoints_are_all_torn_does_not_begin_anew(tmp_path: Path, toy_shards: Path) -> None:
    folder = fit(job(tmp_path / "run", toy_shards, 2))
    for path in (folder / "checkpoints").rglob("*.json"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="holds no checkpoint that can be read"):
        fit(job(folder, toy_shards, 4, resume=True))


def test_checkpoints_of_an_older_format_are_named(tmp_path: Path) -> None:
    kept = tmp_path / "run" / "checkpoints"
    kept.mkdir(parents=True)
    (kept / "step-0000002.ckpt").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"of an older vgen; 'vgen checkpoints \S+run convert' makes new"):
        fit(job(tmp_path / "run", tmp_path / "nowhere", 4, resume=True))


class Poison:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("strategy", [Spread.SINGLE, Spread.ZERO2, Spread.ZERO3])
def test_a_poisoned_deepspeed_folder_executes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: Spread
) -> None:
    monkeypatch.chdir(tmp_path)
    parts = tmp_path / "run" / "checkpoints" / "step-0000002.ckpt" / "checkpoint"
    parts.mkdir(parents=True)
    (parts.parent / "latest").write_text("checkpoint")
    (parts.parent / "vgen.json").write_text('{"stage": 2, "num_processes": 1}')
    for name in ("mp_rank_00_model_states.pt", "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"):
        torch.save({"module": Poison()}, parts / name)
    with pytest.raises(ValueError, match=r"execute what they carry .* start a new run\.name"):
        fit(job(tmp_path / "run", tmp_path / "nowhere", 4, resume=True, strategy=strategy))
    assert not (tmp_path / "executed").exists()


def test_a_full_disk_is_said_once_and_ends_nothing(
    tmp_path: Path, toy_shards: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Full at steps 2 and 4, with room again at 6: the checkpoint of the step before stays until then."""
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / ".step-0000002.1.tmp").mkdir()
    write = tensor_file.write
    tries = []

    def full(path: Path, shelf: Any) -> Any:
        tries.append(path)
        if len(tries) <= 2:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, shelf)

    monkeypatch.setattr("vgen.training.checkpoint_folder.write_tensors", full)
    with caplog.at_level("WARNING"):
        fit(job(tmp_path / "run", toy_shards, 6, val_every_steps=200))
    assert caplog.text.count("CHECKPOINT NOT WRITTEN") == 1
    assert "step-0000002 (No space left on device). Training goes on" in caplog.text
    assert "checkpoints are written again" in caplog.text
    assert sorted(path.name for path in folder.iterdir()) == ["LATEST", "step-0000006"]
    assert (tmp_path / "run" / "adapter.safetensors").is_file()


def test_a_deleted_run_folder_is_a_sentence(
    tmp_path: Path, toy_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Learner.training_step

    def deleting(self: Learner, batch: Batch, index: int) -> torch.Tensor:
        if self.trainer.global_step == 3:
            shutil.rmtree(tmp_path / "run")
        return step(self, batch, index)

    monkeypatch.setattr(Learner, "training_step", deleting)
    with pytest.raises(ValueError, match=r"the run's folder \S+run was deleted or moved while it trained"):
        fit(job(tmp_path / "run", toy_shards, 6))
    assert not (tmp_path / "run").exists()


def test_the_curve_reaches_as_far_as_the_checkpoint(tmp_path: Path, toy_shards: Path, end_at: Any) -> None:
    end_at(4, Killed())
    with pytest.raises(Killed):
        fit(job(tmp_path / "run", toy_shards, 8))
    found = latest(tmp_path / "run" / "checkpoints")
    assert found is not None
    header, *rows = (tmp_path / "run" / "metrics" / "metrics.csv").read_text().splitlines()
    at, step = (header.split(",").index(name) for name in ("train/loss", "step"))
    written = [int(row.split(",")[step]) for row in rows if row.split(",")[at]]
    assert written == [*range(found.state.step)]


@pytest.mark.parametrize("kind", list(Optimiser))
def test_a_run_goes_on_with_every_optimiser(
    tmp_path: Path, toy_shards: Path, end_at: Any, kind: Optimiser
) -> None:
    def wish(folder: str, **more: Any) -> Job:
        made = job(tmp_path / folder, toy_shards, 4, val_every_steps=200, **more)
        return replace(made, optimisation=replace(made.optimisation, kind=kind))

    whole = fit(wish("whole"))
    end_at(3, Killed())
    with pytest.raises(Killed):
        fit(wish("parts"))
    parts = fit(wish("parts", resume=True))
    a, b = (room.opened(folder / "checkpoints" / "step-0000004") for folder in (whole, parts))
    assert a.state.optimizer_steps == b.state.optimizer_steps
    assert a.names == b.names
    for file in a.names:
        want, got = a.tensors(file), b.tensors(file)
        assert all(torch.equal(got[name], value) for name, value in want.items()), file


def test_the_configuration_of_a_run_changes_when_training_goes_on_and_not_before(tmp_path: Path) -> None:
    plain = {"method": {}, "backbone": {}, "optim": {}, "data": {"path": "a"}}
    claim(tmp_path / "run", plain, resume=False)
    claim(tmp_path / "run", plain | {"data": {"path": "nowhere"}}, resume=True)
    assert "nowhere" not in (tmp_path / "run" / "config.yaml").read_text()


def test_the_gradient_norm_is_that_of_the_step_it_stands_beside(tmp_path: Path, toy_shards: Path) -> None:
    def norms(every: int) -> dict[str, str]:
        folder = fit(job(tmp_path / f"every{every}", toy_shards, 6, log_every_steps=every))
        header, *rows = ((folder / "metrics" / "metrics.csv").read_text()).splitlines()
        at, step = (header.split(",").index(name) for name in ("optim/grad_norm", "step"))
        return {row.split(",")[step]: row.split(",")[at] for row in rows if row.split(",")[at]}

    every, third = norms(1), norms(3)
    assert third == {step: every[step] for step in ("2", "5")}


def test_half_precision_is_refused_where_it_cannot_train(tmp_path: Path, toy_shards: Path) -> None:
    with pytest.raises(ValueError, match=r"trainer\.precision=fp16 needs a GPU"):
        fit(job(tmp_path / "run", toy_shards, 2, precision=Precision.FP16))


def test_more_processes_than_gpus_are_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        ValueError,
        match=r"trainer\.devices=2 processes need a GPU each and this machine has 1; set trainer\.devices=1",
    ):
        fit(job(tmp_path / "run", tmp_path / "nowhere", 2, strategy=Spread.DDP, devices=2))


@pytest.mark.parametrize("strategy", [Spread.ZERO1, Spread.ZERO2, Spread.ZERO3])
def test_muon_is_refused_where_weights_are_in_parts(
    tmp_path: Path, toy_shards: Path, strategy: Spread
) -> None:
    wish = job(tmp_path / "run", toy_shards, 2, strategy=strategy)
    wish.optimisation = replace(wish.optimisation, kind=Optimiser.MUON)
    with pytest.raises(
        ValueError,
        match=rf"muon needs whole weights, which trainer\.strategy={strategy.value} .*trainer=ddp, or "
        ".*=adamw",
    ):
        fit(wish)


def test_an_image_model_is_not_trained_in_parts(tmp_path: Path, toy_shards: Path) -> None:
    wish = job(tmp_path / "run", toy_shards, 2, strategy=Spread.ZERO3)
    with pytest.raises(
        ValueError, match=r"deepspeed_zero3 leaves in parts; use trainer=deepspeed_zero2 or trainer=ddp"
    ):
        fit(replace(wish, recipe=LatentDiffusion()))


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (
            Sampling(num_frames=64),
            r"callbacks\.sampling\.num_frames=64 frames at once, but the motion module has 32 position rows",
        ),
        (Sampling(width_px=63), r"width_px must be .*multiple of 16.* got 63"),
    ],
)
def test_samples_that_cannot_be_drawn_are_refused_before_training(
    tmp_path: Path, toy_shards: Path, sampling: Sampling, message: str, seen: list[str]
) -> None:
    wish = job(tmp_path / "run", toy_shards, 2)
    wish.samples = SampleSettings(prompts=["a red circle rests"], every_steps=2, sampling=sampling)
    with pytest.raises(ValueError, match=message):
        fit(wish)
    assert not seen


def test_more_frames_than_the_layers_tell_apart_are_refused_before_training(
    tmp_path: Path, toy_shards: Path, seen: list[str]
) -> None:
    wish = job(tmp_path / "run", toy_shards, 2)
    wish.recipe = AnimateDiff(motion=MotionModuleSpec(num_positions=1))
    with pytest.raises(
        ValueError,
        match=r"data\.window\.num_frames=2 frames, .* 1 position rows; .*=1 or "
        r"method\.motion\.num_positions=2",
    ):
        fit(wish)
    assert not seen


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_a_rate_is_a_number(value: float) -> None:
    with pytest.raises(ValueError, match=r"optim\.lr must be positive"):
        Optimisation(lr=value)


@pytest.mark.parametrize("knob", ["eps", "weight_decay", "warmup_steps", "grad_clip"])
def test_knobs_of_the_optimiser_are_not_negative(knob: str) -> None:
    with pytest.raises(ValueError, match=rf"optim\.{knob} must not be negative"):
        Optimisation(**{knob: -1})


def test_counts_are_counts() -> None:
    for make, message in [
        (lambda: SampleSettings(every_steps=0), r"callbacks\.every_steps must be at least 1"),
        (lambda: TrainerSettings(num_threads=-1), r"trainer\.num_threads must not be negative"),
        (lambda: Corpus(num_workers=-1), r"data\.num_workers must not be negative"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
