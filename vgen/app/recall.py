"""The scenes that a checkpoint was taught from, read back from its shards: what a clip may be recalled from."""

from __future__ import annotations

from pathlib import Path

from vgen.app.evaluation import EvaluateRun
from vgen.data.reader import ShardReader
from vgen.metrics.task import TaskKind
from vgen.toybox.scenes import Scene


def taught_scenes(run: EvaluateRun, kind: TaskKind) -> list[Scene]:
    """Of ``corpus``; none where none is named. Raises ValueError where they say nothing about the suite, or are not of the toybox."""
    if not run.corpus:
        return []
    if kind.score_recall is None:
        raise ValueError(
            f"corpus={run.corpus} says what clips may be recalled from, which suite {run.suite_name} of kind {kind.name} does not ask; "
            "leave corpus out, or use suite=diversity"
        )
    folder = Path(run.corpus).expanduser()
    if not folder.is_dir():
        raise ValueError(f"corpus={run.corpus} is no folder; give the shards that 'vgen prepare data=toybox out=FOLDER' wrote")
    scenes = []
    with ShardReader(folder) as shards:
        for sample in shards:
            if "scene" not in sample.metadata:
                raise ValueError(
                    f"corpus={run.corpus} has no scene for clip {sample.id}, so its facts are not known; give shards of 'vgen prepare "
                    "data=toybox', or leave corpus out"
                )
            scenes.append(Scene.from_dict(sample.metadata["scene"]))
    return scenes
