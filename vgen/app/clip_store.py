"""Stage one of an evaluation: every clip of every checkpoint as a file, drawn once, kept for ever, never mixed with those of other
settings."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vgen.data.files import write_json, write_whole
from vgen.metrics.suite import Task, batches
from vgen.toybox.renderer import render

Sampler = Callable[[list[Task]], np.ndarray]
"""Tasks to clips, uint8 b f h w 3."""
CEILING = "_ceiling"  # the truth as the image model's decoder paints it


@dataclass(frozen=True, slots=True)
class ClipStore:
    """``folder/samples/<checkpoint>/<task>.npy``, uint8 f h w 3, each whole or absent."""

    folder: Path

    def path(self, checkpoint: str, task: Task) -> Path:
        return self.folder / "samples" / checkpoint / f"{task.id}.npy"

    def missing(self, checkpoint: str, todo: list[Task]) -> list[Task]:
        return [task for task in todo if not self.path(checkpoint, task).is_file()]

    def fill(self, checkpoint: str, todo: list[Task], sampler: Sampler, batch_size: int) -> Iterator[int]:
        """Draw what is missing; yields how many clips were written after each batch."""
        for batch in batches(self.missing(checkpoint, todo), batch_size):
            clips = sampler(batch)
            if clips.dtype != np.uint8 or clips.ndim != 5 or len(clips) != len(batch) or clips.shape[-1] != 3:
                raise ValueError(
                    f"a sampler must return uint8 b f h w 3 with b={len(batch)}, got {clips.dtype} {clips.shape} from {checkpoint}"
                )
            for clip, task in zip(clips, batch, strict=True):
                self.write(checkpoint, task, clip)
            yield len(batch)

    def write(self, checkpoint: str, task: Task, clip: np.ndarray) -> None:
        path = self.path(checkpoint, task)
        path.parent.mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        np.save(file, np.ascontiguousarray(clip), allow_pickle=False)
        write_whole(path, file.getvalue())

    def read(self, checkpoint: str, task: Task) -> np.ndarray:
        path = self.path(checkpoint, task)
        if not path.is_file():
            raise ValueError(f"clip {path} is missing; run the same command again to draw it")
        try:
            return np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"clip {path} can't be read ({error}); delete it and run the same command again") from error

    def claim(self, identity: dict[str, Any]) -> None:
        """Write the manifest, or refuse a folder whose clips were drawn otherwise. Further checkpoints may join."""
        path = self.folder / "manifest.json"
        before: dict[str, Any] = {"checkpoints": {}}
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            differing = [k for k in ("suite", "sampler") if before.get(k) != identity[k]]
            shared = set(before["checkpoints"]) & set(identity["checkpoints"])
            differing += [f"checkpoint {k}" for k in sorted(shared) if before["checkpoints"][k] != identity["checkpoints"][k]]
            if differing:
                raise ValueError(
                    f"{self.folder} holds clips of another evaluation (it differs in {', '.join(differing)}); choose another out=FOLDER"
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, {**identity, "checkpoints": {**before["checkpoints"], **identity["checkpoints"]}})


def truth(task: Task, size_px: int) -> np.ndarray:
    """What the caption means, exactly: uint8 f h w 3."""
    return render(task.scene, size_px).video
