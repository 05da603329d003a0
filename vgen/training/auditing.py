"""``data.audit=true``: the ledger of what a run trains on, kept so that it agrees with the checkpoints."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from vgen.data.audit import AUDIT, SAMPLES, Ledger, Population, mark_resumed
from vgen.data.batch import Batch
from vgen.data.mixture import PRIOR
from vgen.data.stills import kind_of
from vgen.training.corpus import Split
from vgen.training.job import Job

log = logging.getLogger(__name__)
STILLS = "stills"


def refuse_gap(job: Job, goes_on: bool) -> None:
    """Raises ValueError where a ledger would lack the steps before, or those to come."""
    there = (job.folder / AUDIT / SAMPLES).is_file()
    if there and not job.corpus.audit:
        raise ValueError(
            f"run {job.folder} keeps an audit ledger, which data.audit=false would leave with a gap; go on "
            f"with data.audit=true, or delete {job.folder / AUDIT}"
        )
    if job.corpus.audit and goes_on and not there:
        raise ValueError(
            f"run {job.folder} was begun without data.audit=true, whose ledger begins with the first step; "
            "leave it out, or start a new run.name"
        )


def begin_ledger(job: Job, parts: Split, steps_done: int) -> None:
    """Say what there is to train on, and supersede what was written of steps after ``steps_done``. Rank 0
    does it for all ranks, before any of them trains.

    Raises ValueError where the run was begun on other samples.
    """
    if not job.corpus.audit:
        return
    folder, now = job.folder / AUDIT, population(job, parts)
    if not (folder / SAMPLES).is_file():
        now.write(folder)
        return
    if (before := Population.read(folder)) != now:
        raise ValueError(
            f"run {job.folder} was begun on other samples ({before.told()}) than those of now "
            f"({now.told()}), and its audit ledger can't go on; put those of before back, or start a new "
            "run.name"
        )
    mark_resumed(folder, steps_done)


def population(job: Job, parts: Split) -> Population:
    """What there is to train on; ids of the prior are named as batches name them, those of stills likewise,
    which may be named as clips are."""
    ids = {"clips": parts.train.ids()}
    for name, part in ((STILLS, parts.stills), (PRIOR, parts.prior)):
        if part is not None:
            ids[name] = [f"{name}/{id_}" for id_ in part.ids()]
    batches = job.settings.world_size * job.settings.accumulate * (2 if parts.prior is not None else 1)
    return Population(ids, job.corpus.batch_size * batches)


def auditing(job: Job, rank: int) -> list[pl.Callback]:
    """Nothing where no ledger is kept."""
    return [Auditing(job.folder, rank, job.corpus.stills_share)] if job.corpus.audit else []


class Auditing(pl.Callback):
    """Writes of each batch, before its gradients, what this rank trains on in it.

    Gradients need all ranks, so that a step which any rank has made is in the ledgers of all; and so is
    every step of a checkpoint, whatever was killed. A disk that refuses is said once and ends no training.
    It stands behind what ends a run between two steps.
    """

    def __init__(self, folder: Path, rank: int, stills_share: float) -> None:
        self.rank, self.stills_share = rank, stills_share
        self.ledger = Ledger(folder / AUDIT / f"rank-{rank}.jsonl")
        self._refused = False

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Batch, index: int) -> None:
        prefix = f"{STILLS}/" if kind_of(index, self.stills_share) else ""
        samples = [(f"{prefix}{id_}", epoch) for id_, epoch in batch.keys]
        line = {"step": trainer.global_step + 1, "rank": self.rank, "samples": samples}
        try:
            self.ledger.add(line)
        except OSError as error:
            self._say(error)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        try:
            self.ledger.flush()
        except OSError as error:
            self._say(error)
        self.ledger.close()

    def _say(self, error: OSError) -> None:
        if not self._refused:
            log.warning(
                "the audit ledger %s is not written to for now (%s)", self.ledger.path, error.strerror
            )
        self._refused = True
