"""The jobs of ``vgen train --multirun``: one group in W&B, and one table at the end."""

from __future__ import annotations

import csv
import json
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table

from vgen.app.refusals import in_letters, refusal
from vgen.data.files import lines_of, write_json

log = logging.getLogger(__name__)

VAL_LOSS = "val/loss"
TRIALS = "trials"
"""In a sweep's folder: what was tried, and what trials have written."""


@dataclass(frozen=True, slots=True)
class Trained:
    """One job: its run's folder, its group in W&B, and the settings that the command line gave it."""

    folder: Path
    group: str
    settings: tuple[str, ...]
    ended: bool

    def best(self) -> tuple[float, int] | None:
        """The lowest held-out loss and its step; None where nothing was validated."""
        found = [
            (float(row[VAL_LOSS]), int(row["step"]) + 1)
            for path in self.folder.glob("metrics*/metrics.csv")
            for row in csv.DictReader(lines_of(path.read_text()))
            if row.get(VAL_LOSS)
        ]
        return min(found, default=None)

    def objective(self) -> float:
        """What a sweeper minimises: infinite where nothing was validated."""
        return (self.best() or (math.inf, 0))[0]


def of_folder(folder: Path) -> list[Trained]:
    """The runs that lie in a folder, with all of their settings."""
    found = []
    for config in sorted(folder.glob("*/config.yaml")):
        settings = OmegaConf.to_container(OmegaConf.load(config))
        ended = any((config.parent / name).exists() for name in ("adapter.safetensors", "image_model"))
        found.append(Trained(config.parent, folder.name, tuple(_flat(settings)), ended))
    return [*found, *_without_folder(folder)]


def note(folder: Path, name: str, settings: Sequence[str]) -> None:
    """That a run of this name is tried with these settings."""
    (folder / TRIALS).mkdir(parents=True, exist_ok=True)
    write_json(folder / TRIALS / f"{name}.json", {"settings": list(settings)})


def _without_folder(folder: Path) -> Iterator[Trained]:
    """Runs that were tried and refused before they had a folder, with the settings that were tried."""
    for noted in sorted((folder / TRIALS).glob("*.json")):
        if not (folder / noted.stem).exists():
            settings = json.loads(noted.read_text(encoding="utf-8"))["settings"]
            yield Trained(folder / noted.stem, folder.name, tuple(settings), False)


def _flat(settings: Any, above: str = "") -> Iterator[str]:
    """``section.key=value``; what a run is called says nothing of it."""
    for name, value in settings.items():
        key = f"{above}{name}"
        if isinstance(value, dict):
            yield from _flat(value, f"{key}.")
        elif key not in ("run.name", "run.dir"):
            yield f"{key}={value}"


def settings_of_job() -> tuple[str, ...]:
    """What the command line says to this job of a multirun."""
    return tuple(HydraConfig.get().overrides.task)


def say_failed(done: list[Trained], error: Exception) -> float:
    """A job's reason; it is a row of the table without a loss, and the others go on. What it is worth to a
    sweeper: the worst."""
    number = HydraConfig.get().job.num
    if len(done) <= number:  # refused before it had a folder
        group = done[0].group if done else ""
        done.append(Trained(Path(f"job {number}"), group, settings_of_job(), False))
    sentence = refusal(error)
    if sentence is None:
        log.exception("job %d failed", number, exc_info=error)
    else:
        print(f"vgen train: job {number}: {in_letters(sentence)}", file=sys.stderr, flush=True)
    return math.inf


def ranked(jobs: Sequence[Trained]) -> list[Trained]:
    """By held-out loss, the lowest first; what has none comes last."""
    return sorted(jobs, key=Trained.objective)


def key_of(setting: str) -> str:
    return setting.partition("=")[0]


def differing(jobs: Sequence[Trained]) -> list[str]:
    """For each job its settings that not all of them have, and those that were tried in vain elsewhere. What
    has no folder knows its own settings alone."""
    known = [job for job in jobs if job.folder.exists()]
    common = set.intersection(*(set(job.settings) for job in known or jobs))
    alone = [one for job in jobs if job not in known for one in job.settings if one not in common]
    tried = {key_of(one) for one in alone}
    common = {one for one in common if key_of(one) not in tried}
    return ["\n".join(one for one in job.settings if one not in common) for job in jobs]


def table(jobs: Sequence[Trained]) -> Table:
    """One row a job, best first."""
    rows = ranked(jobs)
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("", VAL_LOSS, "at step", "settings", "run"):
        drawn.add_column(name, overflow="fold")
    for place, (job, told) in enumerate(zip(rows, differing(rows), strict=True), 1):
        best = job.best()
        figures = ("-", "-") if best is None else (f"{best[0]:.4f}", str(best[1]))
        failed = "" if job.ended else " (failed)"
        drawn.add_row(str(place), *figures, told.replace("[", r"\["), f"{job.folder}{failed}")
    return drawn


def show(jobs: Sequence[Trained], console: Console) -> None:
    if len(jobs) > 1:
        console.print(table(jobs))
