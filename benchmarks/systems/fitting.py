"""Methods that are fitted to one clip, as the benchmarks fit them: in this process, many clips one after
another, each kept when it is done."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.systems.plan import Row, Workplace
from vgen.backbones.absent import no_image_model
from vgen.data.batch import Batch
from vgen.diffusion.draws import Draws
from vgen.methods import Recipe, VideoModel
from vgen.metrics.suite import Task
from vgen.training.learner import Learner
from vgen.training.optimisation import Decay, Optimisation
from vgen.training.peaks import peak_memory_gb


def fitted(
    recipe: Recipe, video: np.ndarray, caption: str, num_steps: int, decay: Decay, lr: float
) -> VideoModel:
    """What the recipe learns of a clip uint8 f h w 3, from seed 0."""
    torch.manual_seed(0)
    optimisation = Optimisation(lr=lr, weight_decay=0.0, decay=decay)
    learner = Learner(recipe, no_image_model(), optimisation, seed=0, max_steps=num_steps)
    optimiser, rates = optimisation.build(list(learner.learning.values()), num_steps)
    frames = torch.from_numpy(video.copy()).permute(0, 3, 1, 2)[None]
    for step in range(num_steps):
        batch = Batch(keys=[("clip", step)], captions=[caption], video=frames)
        learner.objective.enter(step, num_steps)
        loss = learner.objective.loss(learner.video_model, batch, Draws(0, batch.keys))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.step()
    return learner.video_model


Made = tuple[np.ndarray, Row]
"""A clip uint8 f h w 3, and numbers beside it."""


def make_all(todo: Sequence[Task], folder: Path, make: Callable[[Task], Made]) -> None:
    """``folder/ID.npy`` and ``folder/ID.json`` of every task that has none."""
    folder.mkdir(parents=True, exist_ok=True)
    for task in todo:
        file = folder / f"{task.id}.npy"
        if file.is_file():
            continue
        began = time.process_time()
        clip, row = make(task)
        cost = {"seconds": time.process_time() - began, "gib": peak_memory_gb()}
        file.with_suffix(".json").write_text(json.dumps(row | cost))
        np.save(file, clip)


def noted(work: Workplace, folder: str, rows: Sequence[Row]) -> list[Row]:
    """What was noted of the clips of an evaluation's rows, in their order."""
    files = [work.folder / folder / f"{row['id']}.json" for row in rows]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def notes_in(work: Workplace, folder: str) -> list[Row]:
    """What was noted of all clips of a folder, by the order of their names."""
    files = sorted((work.folder / folder).glob("*.json"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def spent(rows: Sequence[Row]) -> Row:
    """What a clip costs, for the table of editing systems."""
    seconds = float(np.mean([row["seconds"] for row in rows]))
    return {"seconds": seconds, "gib": max(row["gib"] for row in rows)}


def run_module(work: Workplace, name: str, *words: object) -> None:
    """``python -m benchmarks.systems.NAME WORDS``, once."""
    command = [sys.executable, "-m", f"benchmarks.systems.{name}", *map(str, words)]
    work.run("-".join(["fit", name, *map(str, words)]), command)
