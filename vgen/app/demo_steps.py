"""How long the demo trains: as many steps as a machine takes in minutes, found by the first ones."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from vgen.app.config import TrainRun
from vgen.app.train import train
from vgen.data.files import lines_of
from vgen.training.progress import told_seconds
from vgen.training.quiet import unheard

LADDER = (400, 200, 100)
"""Steps, the most first."""
PATIENCE_SECONDS = 300.0
"""What a training may take before fewer steps are chosen: the other stages of a demo take as long again on
two cores, and all of it is to end within ten minutes."""
TRIED, WARM = 6, 3
"""Steps that are tried, and those of them that are not timed."""


def paced(training: TrainRun, trial: Path, console: Console) -> TrainRun:
    """The training with as many steps as the machine's pace allows, which is said. What is tried in the
    folder ``trial`` is removed; the latents that it cached stay for the training."""
    console.print(f"{TRIED} steps to see this machine's pace:")
    with unheard():
        each = seconds_a_step(training, trial)
    steps = chosen(each)
    console.print(said(steps, each), soft_wrap=True)
    settings = replace(training.trainer, max_steps=steps, val_every_steps=max(1, steps // 2))
    return replace(training, trainer=replace(settings, checkpoint_every_steps=steps))


def seconds_a_step(training: TrainRun, trial: Path) -> float:
    """Of the training's own steps, the last of a few."""
    settings = replace(
        training.trainer,
        max_steps=TRIED,
        log_every_steps=WARM,
        val_every_steps=2 * TRIED,
        checkpoint_every_steps=2 * TRIED,
    )
    run = replace(training.run, name=trial.name, dir=str(trial.parent))
    folder = train(replace(training, trainer=settings, run=run))
    try:
        [figures] = folder.glob("metrics*/metrics.csv")
        rates = [row["speed/clips_per_s"] for row in csv.DictReader(lines_of(figures.read_text()))]
        return training.data.batch_size / float([rate for rate in rates if rate][-1])
    finally:
        shutil.rmtree(folder)


def chosen(seconds_a_step: float) -> int:
    """The most steps of the ladder that take no longer than patience allows, and its last rung at least."""
    return next((steps for steps in LADDER if steps * seconds_a_step <= PATIENCE_SECONDS), LADDER[-1])


def said(steps: int, seconds_a_step: float) -> str:
    """What was chosen and why, what more would bring, and how to have it."""
    took = f"a step takes {seconds_a_step:.1f} s here"
    if steps == LADDER[0]:
        return f"{took}: all {steps} steps, {told_seconds(steps * seconds_a_step)}"
    most = LADDER[0]
    return (
        f"{took}: {steps} steps ({told_seconds(steps * seconds_a_step)}) in place of {most} "
        f"({told_seconds(most * seconds_a_step)}), with which clips hold together better; "
        f"vgen demo steps={most} trains them"
    )
