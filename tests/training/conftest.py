"""A training run of seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vgen.backbones.blank import Blank, blank
from vgen.data.clips import Window
from vgen.layers.motion_module import MotionModuleSpec
from vgen.methods.animatediff import AnimateDiff
from vgen.training.corpus import Corpus
from vgen.training.job import Job
from vgen.training.optimisation import Optimisation
from vgen.training.records import LoggerSettings
from vgen.training.samples import SampleSettings
from vgen.training.strategies import TrainerSettings

QUICK: dict[str, Any] = {
    "val_every_steps": 100,
    "checkpoint_every_steps": 100,
    "log_every_steps": 1,
    "num_threads": 1,
    "preflight": False,
}


@pytest.fixture
def quick(tmp_path: Path, toy_shards: Path) -> Callable[..., Job]:
    """Of so many steps; more settings are the trainer's."""

    def job(steps: int, *, resume: bool = False, num_workers: int = 0, **settings: Any) -> Job:
        return Job(
            recipe=AnimateDiff(motion=MotionModuleSpec(heads=4)),
            model=blank(Blank.TOYBOX, seed=0),
            corpus=Corpus(
                path=str(toy_shards),
                window=Window(num_frames=2),
                batch_size=2,
                val_clips=4,
                cache=num_workers == 0,
                num_workers=num_workers,
            ),
            optimisation=Optimisation(lr=1e-3, ema_decay=0.9),
            settings=TrainerSettings(max_steps=steps, **QUICK | settings),
            logger=LoggerSettings(),
            samples=SampleSettings(),
            folder=tmp_path / "run",
            name="run",
            seed=3,
            resume=resume,
            plain={"note": "test"},
        )

    return job
