"""``python structure_runs.py SHARDS FOLDER METHOD STRATEGY [KILLED_AT]``: one of two processes that train a
ControlNet, low-rank layers or a whole UNet; both end as by kill -9 where a step is named."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from torch import Tensor

from vgen.backbones.blank import Blank, blank
from vgen.data.batch import Batch
from vgen.data.clips import Window
from vgen.layers.lora import LowRankSpec
from vgen.methods import Recipe
from vgen.methods._low_rank import Target
from vgen.methods.control_net import ControlNets, Shown
from vgen.methods.dreambooth import DreamBooth
from vgen.methods.lora import Lora
from vgen.training.corpus import Corpus
from vgen.training.job import Job
from vgen.training.learner import Learner
from vgen.training.optimisation import Optimisation
from vgen.training.records import LoggerSettings
from vgen.training.run import fit
from vgen.training.samples import SampleSettings
from vgen.training.strategies import Accelerator, Spread, TrainerSettings

STEPS, GLOBAL_BATCH = 4, 2


def recipe_of(method: str) -> Recipe:
    """What trains beside the UNet, within it, and all of it."""
    small = LowRankSpec(rank=4)
    return {
        "control_net": ControlNets(condition=Shown.EDGES),
        "lora": Lora(
            targets=[Target(layer=small), Target(into="text_encoder", paths=["*q_proj"], layer=small)]
        ),
        "dreambooth": DreamBooth(identifier="", prior_weight=0.0, least_pictures=1),
    }[method]


def job(shards: Path, folder: Path, method: str, spread: Spread = Spread.SINGLE, num_ranks: int = 1) -> Job:
    """AdamW's eps is so large that rounding cannot turn an update round."""
    settings = TrainerSettings(
        accelerator=Accelerator.CPU,
        strategy=spread,
        devices=num_ranks,
        max_steps=STEPS,
        val_every_steps=2,
        checkpoint_every_steps=1,
        log_every_steps=1,
        num_threads=1,
        preflight=False,
    )
    return Job(
        recipe=recipe_of(method),
        model=blank(Blank.TOYBOX, seed=0),
        corpus=Corpus(
            path=str(shards),
            window=Window(num_frames=1),
            batch_size=GLOBAL_BATCH // num_ranks,
            val_clips=4,
        ),
        optimisation=Optimisation(lr=1e-3, eps=1e-3, ema_decay=0.9),
        settings=settings,
        logger=LoggerSettings(),
        samples=SampleSettings(),
        folder=folder,
        name=folder.name,
        seed=3,
        resume=True,
        plain={},
    )


def die_at(step: int) -> None:
    """Every rank ends itself before it takes this step."""
    run = Learner.training_step

    def dying(self: Learner, batch: Batch, index: int) -> Tensor:
        if self.trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return run(self, batch, index)

    Learner.training_step = dying  # type: ignore[method-assign]


def main(shards: str, folder: str, method: str, spread: str, killed_at: str = "") -> None:
    if killed_at:
        die_at(int(killed_at))
    fit(job(Path(shards), Path(folder), method, Spread(spread), num_ranks=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
