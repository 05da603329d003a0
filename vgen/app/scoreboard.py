"""Stage two of an evaluation: clips to rows, rows to means with intervals, beside what tricks earn and what the decoder allows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vgen.app.clip_store import CEILING, ClipStore
from vgen.data.files import write_whole
from vgen.metrics.metric import Numbers
from vgen.metrics.scoring import METRICS, score
from vgen.metrics.selftest import CONTROLS, LOWEST_CEILING, OTHER, self_test
from vgen.metrics.statistics import interval, paired_difference
from vgen.metrics.suite import Task
from vgen.metrics.text_accuracy import CHANCE, chance_corrected

HEADLINES = ("exact", "motion_moving", "coherence")
STILL_HEADLINES = ("exact_image",)


@dataclass(frozen=True, slots=True)
class Row:
    """One clip of one checkpoint."""

    checkpoint: str
    task: Task
    numbers: Numbers

    def to_dict(self) -> dict[str, Any]:
        return {
            "checkpoint": self.checkpoint,
            "id": self.task.id,
            "bucket": self.task.bucket.value,
            "caption": self.task.caption,
            **self.numbers,
        }


def score_all(store: ClipStore, checkpoints: Sequence[str], todo: Sequence[Task], on_clip: Callable[[], None] = lambda: None) -> list[Row]:
    """Every clip of every checkpoint; one that is missing is an error, never a smaller sample."""
    rows = []
    for checkpoint in checkpoints:
        for task in todo:
            rows.append(Row(checkpoint, task, score(store.read(checkpoint, task), task)))
            on_clip()
    return rows


def write_rows(rows: Sequence[Row], path: Path) -> None:
    write_whole(path, "".join(json.dumps(row.to_dict(), ensure_ascii=False) + "\n" for row in rows).encode())


def summary(rows: Sequence[Row], ceiling: Sequence[Row], todo: Sequence[Task], num_selftest: int, size_px: int) -> dict[str, Any]:
    """Plain data. ``valid`` is false where the oracle cannot even read what the decoder makes of the truth."""
    names = list(dict.fromkeys(row.checkpoint for row in rows))
    per = {name: [row for row in rows if row.checkpoint == name] for name in names}
    headlines = STILL_HEADLINES if todo[0].scene.num_frames == 1 else HEADLINES
    tested = {name: _means(numbers) for name, numbers in self_test(todo[:num_selftest], size_px).items()} if num_selftest else {}
    tricks = {name: means for name, means in tested.items() if name in (*CONTROLS, OTHER)}
    top = _means([row.numbers for row in ceiling])
    best = top.get(headlines[0])
    return {
        "headlines": list(headlines),
        "checkpoints": {
            name: {"overall": _intervals(mine), "buckets": _buckets(mine), "chance_corrected": _corrected(mine)}
            for name, mine in per.items()
        },
        "differences": {f"{b} - {a}": _differences(per[a], per[b], headlines) for i, a in enumerate(names) for b in names[i + 1 :]},
        "self_test": tested,
        "floors": {k: _best_trick(tricks, k) for k in headlines},
        "ceiling": top,
        "valid": None if best is None else best >= LOWEST_CEILING,
        "num_clips": len(todo),
        "num_selftest": min(num_selftest, len(todo)),
        "metrics": [asdict(m) for m in METRICS],
    }


def _best_trick(tricks: dict[str, dict[str, float | None]], key: str) -> tuple[float | None, str | None]:
    earned = {name: means.get(key) or 0.0 for name, means in tricks.items()}
    name = max(earned, key=earned.__getitem__, default=None)
    return (None, None) if name is None else (earned[name], name)


def ceiling_rows(store: ClipStore, todo: Sequence[Task]) -> list[Row]:
    return [Row(CEILING, task, score(store.read(CEILING, task), task)) for task in todo if store.path(CEILING, task).is_file()]


def _means(rows: Sequence[Numbers]) -> dict[str, float | None]:
    """Means over the clips that ask for a number."""
    out: dict[str, float | None] = {}
    for key in rows[0] if rows else ():
        values = [v for row in rows if (v := row.get(key)) is not None]
        out[key] = float(np.mean(values)) if values else None
    return out


def _intervals(rows: Sequence[Row]) -> dict[str, Any]:
    return {key: asdict(interval([row.numbers[key] for row in rows])) for key in rows[0].numbers}


def _buckets(rows: Sequence[Row]) -> dict[str, Any]:
    buckets = dict.fromkeys(row.task.bucket for row in rows)
    return {bucket.value: _intervals([row for row in rows if row.task.bucket is bucket]) for bucket in buckets}


def _corrected(rows: Sequence[Row]) -> dict[str, float]:
    means = _means([row.numbers for row in rows])
    return {a: chance_corrected(a, mean) for a in CHANCE if (mean := means.get(a)) is not None}


def _differences(ours: Sequence[Row], theirs: Sequence[Row], headlines: Sequence[str]) -> dict[str, Any]:
    return {k: asdict(paired_difference([r.numbers[k] for r in theirs], [r.numbers[k] for r in ours])) for k in headlines}
