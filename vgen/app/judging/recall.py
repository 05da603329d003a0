"""The scenes that a checkpoint was taught from, read back from its shards, and how near its clips are to
them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vgen.app.judging.evaluation import EvaluateRun
from vgen.app.judging.scorer import Row
from vgen.data.reader import ShardReader
from vgen.metrics.metric import Numbers
from vgen.metrics.scoring import score
from vgen.metrics.task import Task, TaskKind
from vgen.toybox.scenes import Scene


def taught_scenes(run: EvaluateRun, kind: TaskKind) -> list[Scene]:
    """Of ``corpus``; none where none is named. Raises ValueError where they say nothing about the suite, or
    are not of the toybox."""
    if not run.corpus:
        return []
    if kind.recall is None:
        raise ValueError(
            f"corpus={run.corpus} says what clips may be recalled from, which suite {run.suite_name} of "
            f"kind {kind.name} does not ask; "
            "leave corpus out, or use suite=diversity"
        )
    folder = Path(run.corpus).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"corpus={run.corpus} is no folder; give the shards that 'vgen prepare data=toybox out=FOLDER' "
            "wrote"
        )
    scenes = []
    with ShardReader(folder) as shards:
        for sample in shards:
            if "scene" not in sample.metadata:
                raise ValueError(
                    f"corpus={run.corpus} has no scene for clip {sample.id}, so its facts are not known; "
                    "give shards of 'vgen prepare "
                    "data=toybox', or leave corpus out"
                )
            scenes.append(Scene.from_dict(sample.metadata["scene"]))
    return scenes


def identity(folder: str, taught: Sequence[Scene]) -> dict[str, Any] | None:
    """What evaluations must share for their recall to be compared, wherever the shards lie; None where no
    corpus was named."""
    if not taught:
        return None
    told = json.dumps([scene.to_dict() for scene in taught], sort_keys=True)
    return {"folder": folder, "scenes": len(taught), "sha256": hashlib.sha256(told.encode()).hexdigest()}


def recalled(rows: Sequence[Row], taught: Sequence[Scene]) -> list[Row]:
    """Rows that also say how near each clip is to the scenes; as they are where there are none."""
    recall = rows[0].task.kind.recall if rows and taught else None
    if recall is None:
        return list(rows)
    more = recall.measure([(row.task, row.numbers) for row in rows], taught)
    return [replace(row, numbers=row.numbers | extra) for row, extra in zip(rows, more, strict=True)]


def copied(todo: Sequence[Task], taught: Sequence[Scene], size_px: int) -> list[Numbers]:
    """Rows of the clips of someone who only repeats the scenes: what number ``recall.key`` is at its
    worst."""
    recall = todo[0].kind.recall
    assert recall is not None, f"kind {todo[0].kind.name} does not ask what is recalled"
    rows = [score(clip, task) for task, clip in zip(todo, recall.copies(todo, taught, size_px), strict=True)]
    return [
        row | extra
        for row, extra in zip(rows, recall.measure(list(zip(todo, rows, strict=True)), taught), strict=True)
    ]
