"""The jobs of ``vgen train --multirun``: one group in W&B, and one table at the end."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table

from vgen.data.files import lines_of

VAL_LOSS = "val/loss"


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


def of_folder(folder: Path) -> list[Trained]:
    """The runs that lie in a folder, with all of their settings."""
    found = []
    for config in sorted(folder.glob("*/config.yaml")):
        settings = OmegaConf.to_container(OmegaConf.load(config))
        ended = any((config.parent / name).exists() for name in ("adapter.safetensors", "image_model"))
        found.append(Trained(config.parent, folder.name, tuple(_flat(settings)), ended))
    return found


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


def ranked(jobs: Sequence[Trained]) -> list[Trained]:
    """By held-out loss, the lowest first; what has none comes last."""
    return sorted(jobs, key=lambda job: (job.best() or (math.inf, 0))[0])


def differing(jobs: Sequence[Trained]) -> list[str]:
    """For each job its settings that not all of them have."""
    common = set.intersection(*(set(job.settings) for job in jobs))
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
