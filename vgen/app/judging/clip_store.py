"""Stage one of an evaluation: every clip of every checkpoint as a file, drawn once, kept for ever, never
mixed with those of other settings. Several processes may draw into one folder at a time."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from vgen.data.files import lines_of, put_in_place
from vgen.metrics.suite import Task, batches
from vgen.toybox.renderer import render
from vgen.training.peaks import peak_memory_gb

Sampler = Callable[[list[Task]], np.ndarray]
"""Tasks to clips, uint8 b f h w 3."""
CEILING = "_ceiling"  # the truth as the image model's decoder paints it
SOURCE = "_source"  # the clip that a task is held to, as the image model's decoder paints it
RULES = ("suite", "sampler")  # of a manifest: what all clips of a folder have in common


@dataclass(frozen=True, slots=True)
class ClipStore:
    """``folder/samples/<checkpoint>/<task>.npy``, uint8 f h w 3, each whole or absent."""

    folder: Path

    def path(self, checkpoint: str, task: Task) -> Path:
        return self.folder / "samples" / checkpoint / f"{task.id}.npy"

    def missing(self, checkpoint: str, todo: Sequence[Task]) -> list[Task]:
        return [task for task in todo if not self.path(checkpoint, task).is_file()]

    def fill(
        self,
        checkpoint: str,
        todo: list[Task],
        sampler: Sampler,
        batch_size: int,
        share: tuple[int, int] = (0, 1),
        timed: bool = True,
        work: Callable[[], int] = lambda: 0,
    ) -> Iterator[int]:
        """Draw what is missing of one process's share; yields how many clips were written after each batch.
        ``work`` counts the frames that the UNet has seen so far, where that is known only by counting.

        Batches are cut from the whole list and then dealt out, so that they hold the same clips whatever the
        number of processes.
        """
        index, of = share
        for batch in list(batches(todo, batch_size))[index::of]:
            lacking = self.missing(checkpoint, batch)
            if lacking:
                began, before = time.perf_counter(), work()
                for clip, task in zip(_checked(sampler(lacking), lacking, checkpoint), lacking, strict=True):
                    self.write(checkpoint, task, clip)
                if timed:
                    self._spent(checkpoint, index, len(lacking), time.perf_counter() - began, work() - before)
                yield len(lacking)

    def write(self, checkpoint: str, task: Task, clip: np.ndarray) -> None:
        with _whole(self.path(checkpoint, task)) as file:
            np.save(file, np.ascontiguousarray(clip), allow_pickle=False)

    def read(self, checkpoint: str, task: Task) -> np.ndarray:
        return read_clip(self.path(checkpoint, task))

    def _spent(self, checkpoint: str, index: int, num_clips: int, seconds: float, unet_frames: int) -> None:
        """Each process has a file of its own; the cost of a clip is read from all of them."""
        spent = {"clips": num_clips, "seconds": round(seconds, 4), "peak_gib": round(peak_memory_gb(), 3)}
        if unet_frames:
            spent["unet_frames"] = unet_frames
        with (self.folder / "samples" / checkpoint / f"seconds-{index}.jsonl").open(
            "a", encoding="utf-8"
        ) as file:
            file.write(json.dumps(spent) + "\n")

    def seconds_per_clip(self, checkpoint: str) -> float | None:
        """Mean drawing time on the machines that drew; None for clips that came from elsewhere."""
        return self._per_clip(checkpoint, "seconds")

    def unet_frames_per_clip(self, checkpoint: str) -> float | None:
        """Mean number of frames that the UNet saw for a clip, where it was counted."""
        return self._per_clip(checkpoint, "unet_frames") or None

    def peak_gib(self, checkpoint: str) -> float | None:
        """The most memory that a process which drew has held; None where nobody noted it."""
        return max((s["peak_gib"] for s in self._all_spent(checkpoint) if "peak_gib" in s), default=None)

    def _per_clip(self, checkpoint: str, key: str) -> float | None:
        spent = self._all_spent(checkpoint)
        num = sum(s["clips"] for s in spent)
        return sum(s.get(key, 0) for s in spent) / num if num else None

    def _all_spent(self, checkpoint: str) -> list[dict[str, Any]]:
        """What every process noted; a line that was being written when one was killed is left out."""
        files = sorted((self.folder / "samples" / checkpoint).glob("seconds-*.jsonl"))
        lines = [line for file in files for line in lines_of(file.read_text(encoding="utf-8"))]
        return [json.loads(line) for line in lines if line.endswith("}")]

    def manifest(self) -> dict[str, Any]:
        path = self.folder / "manifest.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"checkpoints": {}}

    def refuse_other(self, identity: dict[str, Any]) -> None:
        """Raise ValueError for a folder whose clips were drawn otherwise."""
        before = self.manifest()
        if "suite" not in before:
            return
        differing = [k for k in RULES if before.get(k) != identity[k]]
        shared = set(before["checkpoints"]) & set(identity["checkpoints"])
        differing += [
            f"checkpoint {k}"
            for k in sorted(shared)
            if before["checkpoints"][k] != identity["checkpoints"][k]
        ]
        if differing:
            raise ValueError(
                f"{self.folder} holds clips of another evaluation (it differs in {', '.join(differing)}); "
                "choose another out=FOLDER"
            )

    def claim(self, identity: dict[str, Any]) -> None:
        """Write the manifest before the first clip, or refuse as :meth:`refuse_other`. Of several processes
        that come at once one is the first, and the others are held to what it says. Further checkpoints may
        join."""
        if not self._begun(identity):
            self.refuse_other(identity)
            before = self.manifest()
            self.write_json(
                "manifest.json",
                {**before, **identity, "checkpoints": {**before["checkpoints"], **identity["checkpoints"]}},
            )

    def _begun(self, identity: dict[str, Any]) -> bool:
        """Whether this process wrote the manifest that was not there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", prefix=".manifest-", suffix=".tmp", dir=self.folder, encoding="utf-8"
        ) as file:
            file.write(_json(identity))
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            try:
                os.link(file.name, self.folder / "manifest.json")
            except OSError:  # it is there, or this disk has no links
                return False
        return True

    def write_json(self, name: str, value: Any) -> None:
        self.write_text(name, _json(value))

    def write_text(self, name: str, text: str) -> None:
        """Whole or absent, even where several processes write the same thing at once."""
        with _whole(self.folder / name) as file:
            file.write(text.encode())


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


@contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name when the block ends well, written under a name that no other process
    uses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        prefix=f".{path.stem}-", suffix=".tmp", dir=path.parent, delete=False
    ) as file:
        try:
            yield file
            os.chmod(file.name, 0o644)
            put_in_place(file, path)
        finally:
            Path(file.name).unlink(missing_ok=True)


def read_clip(path: Path) -> np.ndarray:
    """uint8 f h w 3 from a file of the store."""
    if not path.is_file():
        raise ValueError(f"clip {path} is missing; run the same command again to draw it")
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"clip {path} can't be read ({error}); delete it and run the same command again"
        ) from error


def fingerprint(clip: np.ndarray) -> str:
    """Of the raw pixels; rows of scores carry it."""
    return hashlib.sha256(str(clip.shape).encode() + np.ascontiguousarray(clip).tobytes()).hexdigest()[:16]


def _checked(clips: np.ndarray, batch: list[Task], checkpoint: str) -> np.ndarray:
    if clips.dtype != np.uint8 or clips.ndim != 5 or len(clips) != len(batch) or clips.shape[-1] != 3:
        raise ValueError(
            f"a sampler must return uint8 b f h w 3 with b={len(batch)}, got {clips.dtype} {clips.shape} "
            f"from {checkpoint}"
        )
    return clips


def truth(task: Task, size_px: int) -> np.ndarray:
    """What the caption means, exactly: uint8 f h w 3."""
    return render(task.scene, size_px).video
