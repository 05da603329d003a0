"""Trainings of a tenant: shards with a field, a job, and the command that a test starts in processes of its
own: ``python tenant_runs.py SHARDS FOLDER STRATEGY``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import tenants

from vgen.backbones.blank import Blank, blank
from vgen.data.clips import Window
from vgen.data.manifest import Manifest
from vgen.data.sample import Encoding, Sample, Video, pack
from vgen.data.writer import ShardWriter
from vgen.methods import _recipe
from vgen.training.corpus import Corpus
from vgen.training.job import Job
from vgen.training.optimisation import Optimisation
from vgen.training.records import LoggerSettings
from vgen.training.run import fit
from vgen.training.samples import SampleSettings
from vgen.training.strategies import Accelerator, Spread, TrainerSettings

STEPS, FRAMES, SIDE = 3, 4, 32


def write_shards(folder: Path, num_samples: int = 12) -> Path:
    """Noise of ``FRAMES`` frames, with a pose."""
    folder.mkdir(parents=True)
    with ShardWriter(folder, 2_000_000) as writer:
        for i in range(num_samples):
            rng = np.random.default_rng(i)
            video = rng.integers(0, 255, (FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
            pose = rng.random((FRAMES, 1, 17, 3), dtype=np.float32)
            sample = Sample(f"s{i}", video, "a small red circle rests", {"fps": 8.0}, {"pose": pose})
            writer.write(sample.id, pack(sample, Encoding(video=Video.npy)))
    manifest = Manifest(
        source={"listing": ""}, settings={}, counts={}, shards=writer.shards, vgen_version="0"
    )
    manifest.write(folder)
    return folder


def job(shards: Path, folder: Path, *, batch_size: int = 2, resume: bool = False, **settings: Any) -> Job:
    usual: dict[str, Any] = {
        "accelerator": Accelerator.CPU,
        "max_steps": STEPS,
        "val_every_steps": 2,
        "checkpoint_every_steps": 1,
        "log_every_steps": 1,
        "num_threads": 1,
    }
    return Job(
        recipe=tenants.PoseModule(share=0.3),
        model=blank(Blank.TOYBOX, seed=0),
        corpus=Corpus(
            path=str(shards), window=Window(num_frames=2), batch_size=batch_size, val_clips=4, cache=True
        ),
        # eps so large that rounding cannot turn an update round
        optimisation=Optimisation(lr=1e-2, eps=1e-3, ema_decay=0.9),
        settings=TrainerSettings(**usual | settings),
        logger=LoggerSettings(),
        samples=SampleSettings(),
        folder=folder,
        name=folder.name,
        seed=3,
        resume=resume,
        plain={},
    )


if __name__ == "__main__":
    _recipe._catalogue[tenants.NAME] = tenants.PoseModule
    strategy = Spread(sys.argv[3])
    fit(job(Path(sys.argv[1]), Path(sys.argv[2]), batch_size=1, strategy=strategy, devices=2))
