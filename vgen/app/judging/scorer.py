"""Stage two of an evaluation, clip by clip: in one process or several, and after a kill from where it
stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vgen.app.judging.clip_store import SOURCE, ClipStore, fingerprint, read_clip
from vgen.app.judging.overlay import figure_of, write_overlay
from vgen.data.pool import Died, Hung, run_ordered
from vgen.metrics.metric import Numbers
from vgen.metrics.scoring import metrics_of, score
from vgen.metrics.suite import Task
from vgen.toybox.oracle import read

DEADLINE_SECONDS = 300.0
WORTH_A_PROCESS = 64  # clips; starting a process takes as long as scoring about that many
_JOURNAL = "scoring.jsonl"


@dataclass(frozen=True, slots=True)
class Row:
    """One clip of one checkpoint; ``clip`` is the fingerprint of its pixels."""

    checkpoint: str
    task: Task
    numbers: Numbers
    clip: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {
            "checkpoint": self.checkpoint,
            "id": self.task.id,
            "bucket": self.task.bucket.value,
            "group": self.task.group,
            "things": len(self.task.scene.things),
            "caption": self.task.caption,
            "seed": self.task.seed,
            "clip": self.clip,
            **self.numbers,
        }


Item = tuple[str, Task, Path, Path | None]
"""Checkpoint, task, file; and the file of what the task is held to through encoder and decoder, if any."""


def overlay_path(clip: Path) -> Path:
    return clip.with_suffix(".seen.png")


@dataclass(frozen=True, slots=True)
class _Refused:
    """A ValueError on its way out of a worker process."""

    sentence: str


def score_all(
    store: ClipStore,
    checkpoints: Sequence[str],
    todo: Sequence[Task],
    on_clip: Callable[[], None] = lambda: None,
    num_processes: int = 1,
) -> list[Row]:
    """Every clip of every checkpoint, in order; one that is missing is an error, never a smaller sample."""
    codec = codec_is_known(store, todo)
    items = [
        (name, task, store.path(name, task), store.path(SOURCE, task) if codec else None)
        for name in checkpoints
        for task in todo
    ]
    journal = _Journal(store.folder / _JOURNAL, todo, codec)
    known = journal.read()
    fresh = _scored([item for item in items if (item[0], item[1].id) not in known], num_processes)
    rows = []
    for item in items:
        before = known.get((item[0], item[1].id))
        if before is None:
            rows.append(journal.keep(next(fresh)))
        else:  # a clip that was drawn again since is scored again
            rows.append(
                Row(item[0], item[1], *before)
                if before[1] == fingerprint(read_clip(item[2]))
                else score_one(item)
            )
        on_clip()
    journal.path.unlink(missing_ok=True)
    return rows


def codec_is_known(store: ClipStore, todo: Sequence[Task]) -> bool:
    """Whether every task is held to a clip of which it is known what encoder and decoder keep."""
    return todo[0].kind.through_codec is not None and not store.missing(SOURCE, todo)


def _scored(items: list[Item], num_processes: int) -> Iterator[Row]:
    num = min(num_processes, len(items) // WORTH_A_PROCESS)
    if num < 2:
        yield from map(score_one, items)
        return
    outcomes = run_ordered(
        _guarded, items, num_processes=num, deadline_seconds=DEADLINE_SECONDS, preload=[__name__]
    )
    for (name, task, *_), outcome in zip(items, outcomes, strict=True):
        if isinstance(outcome, _Refused):
            raise ValueError(outcome.sentence)
        if isinstance(outcome, Died | Hung):
            raise RuntimeError(f"scoring clip {task.id} of {name} ended its process ({outcome})")
        yield outcome


def score_one(item: Item) -> Row:
    """Also leaves what the oracle saw beside the clip, for the report."""
    name, task, path, source = item
    clip = read_clip(path)
    facts = read(clip, task.scene.stride_ticks)
    row = Row(
        name, task, score(clip, task, facts, None if source is None else read_clip(source)), fingerprint(clip)
    )
    write_overlay(overlay_path(path), facts, figure_of(task, clip))
    return row


def _guarded(item: Item) -> Row | _Refused:
    try:
        return score_one(item)
    except ValueError as error:
        return _Refused(str(error))


class _Journal:
    """Rows as they are scored. It exists only while scoring goes on: a finished evaluation is always scored
    anew."""

    def __init__(self, path: Path, todo: Sequence[Task], codec: bool) -> None:
        self.path = path
        self.rule = json.dumps([*(asdict(metric) for metric in metrics_of(todo)), codec])

    def read(self) -> dict[tuple[str, str], tuple[Numbers, str]]:
        """Numbers and fingerprint by checkpoint and task; nothing from another version of a metric, nor a
        line cut by the kill."""
        if not self.path.is_file():
            return {}
        lines = self.path.read_text(encoding="utf-8").split("\n")
        if lines[0] != self.rule:
            self.path.unlink()
            return {}
        rows = [json.loads(line) for line in lines[1:-1] if line.endswith("}")]
        return {(row["checkpoint"], row["id"]): (row["numbers"], row["clip"]) for row in rows}

    def keep(self, row: Row) -> Row:
        new = not self.path.is_file()
        with self.path.open("a", encoding="utf-8") as file:
            line = {"checkpoint": row.checkpoint, "id": row.task.id, "numbers": row.numbers, "clip": row.clip}
            file.write((self.rule + "\n" if new else "") + json.dumps(line) + "\n")
        return row
