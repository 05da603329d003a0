"""Where a run that is to go on begins, and what is said of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl

from vgen.training.checkpoint_folder import Checkpoint, remove_leftovers, set_aside, step_of, steps
from vgen.training.checkpoints import latest
from vgen.training.job import Job

log = logging.getLogger(__name__)


def say_resumed(found: Checkpoint, consumed: int) -> None:
    log.info(
        "resuming %s at step %d: weights, optimiser, schedule, EMA and random draws are restored; "
        "the data goes on at sample %d of the same order",
        found.folder.name,
        found.state.step,
        consumed,
    )


def say_what_is_kept(fitter: pl.Trainer, by: str) -> None:
    if not fitter.is_global_zero:
        return
    kept = latest(Path(fitter.default_root_dir) / "checkpoints")
    goes_on = f"run.resume=auto goes on from {kept.folder.name}" if kept else "no checkpoint was due yet"
    rest = "" if kept else ", so nothing of it is kept"
    log.warning("stopped at step %d by %s; %s%s", fitter.global_step, by, goes_on, rest)


def resumable(job: Job) -> Checkpoint | None:
    """The newest sound checkpoint, if the run is to go on and has any."""
    folder = job.folder / "checkpoints"
    found = latest(folder) if job.resume else None
    if job.resume and found is None:
        _refuse_older(job.folder, [*folder.glob("step-*.ckpt")])
    if job.resume and found is None and steps(folder):
        raise ValueError(
            f"{job.folder} holds no checkpoint that can be read to go on from; start a new run.name"
        )
    return found


def _refuse_older(run: Path, older: Sequence[Path]) -> None:
    if any(path.is_dir() for path in older):
        raise ValueError(
            f"{run} holds DeepSpeed's own checkpoints of an older vgen, which execute what they carry when "
            "they are read; start a new run.name, with run.init_from where the run wrote an adapter"
        )
    if older:
        raise ValueError(
            f"{run} holds checkpoints of an older vgen; 'vgen checkpoints {run} convert' makes new ones of "
            "them, then go on, or start a new run.name"
        )


def clear(folder: Path, found: Checkpoint | None) -> None:
    """What killed processes left half written, and checkpoints that were passed over."""
    if freed := remove_leftovers(folder):
        log.info("removed %.1f MB of checkpoints that were never finished", freed / 1e6)
    newer = [path for path in steps(folder) if found and step_of(path) > found.state.step]
    for path in newer:
        log.warning("%s is set aside as %s", path.name, set_aside(path).name)
