"""``python stages.py SHARDS FOLDER RANKS STRATEGY:STEP ...``: one of several processes that train one run in
turns, with another strategy each, up to a step each. What every step saw goes to a ledger beside the run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from vgen.backbones.blank import Blank, blank
from vgen.data.batch import Batch
from vgen.data.clips import Window
from vgen.layers.motion_module import MotionModuleSpec
from vgen.methods.animatediff import AnimateDiff
from vgen.training.corpus import Corpus
from vgen.training.job import Job
from vgen.training.learner import Learner
from vgen.training.optimisation import Optimisation
from vgen.training.records import LoggerSettings
from vgen.training.run import fit
from vgen.training.samples import SampleSettings
from vgen.training.strategies import Accelerator, Spread, TrainerSettings

GLOBAL_BATCH, SEED = 6, 3


def job(shards: Path, folder: Path, num_ranks: int, strategy: Spread, steps: int) -> Job:
    """AdamW's eps is so large that rounding cannot turn an update round."""
    settings = TrainerSettings(
        accelerator=Accelerator.CPU,
        strategy=strategy,
        devices=num_ranks,
        max_steps=steps,
        val_every_steps=200,
        checkpoint_every_steps=200,
        log_every_steps=1,
        num_threads=1,
        preflight=False,
    )
    batch_size = GLOBAL_BATCH // num_ranks
    return Job(
        recipe=AnimateDiff(motion=MotionModuleSpec(heads=4)),
        model=blank(Blank.TOYBOX, seed=0),
        corpus=Corpus(
            path=str(shards), window=Window(num_frames=2), batch_size=batch_size, val_clips=6, cache=True
        ),
        optimisation=Optimisation(lr=1e-3, eps=1e-3, warmup_steps=3, ema_decay=0.9),
        settings=settings,
        logger=LoggerSettings(),
        samples=SampleSettings(),
        folder=folder,
        name=folder.name,
        seed=SEED,
        resume=True,
        plain={},
    )


def note_samples(ledger: Path) -> None:
    """Every training batch adds a line: the step, and what it saw."""
    step = Learner.training_step

    def noting(self: Learner, batch: Batch, index: int) -> torch.Tensor:
        with ledger.open("a") as file:
            seen = sorted(str(key) for key in batch.keys)
            file.write(json.dumps([self.trainer.global_step, seen]) + "\n")
        return step(self, batch, index)

    Learner.training_step = noting  # type: ignore[method-assign]


def main(shards: str, folder: str, num_ranks: str, *stages: str) -> None:
    note_samples(Path(f"{folder}.ledger.jsonl"))
    for stage in stages:
        strategy, _, steps = stage.partition(":")
        fit(job(Path(shards), Path(folder), int(num_ranks), Spread(strategy), int(steps)))


if __name__ == "__main__":
    main(*sys.argv[1:])
