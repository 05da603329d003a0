"""Clips that a browser plays: H.264 files named by the pixels they hold, so that each is encoded once however
often it is shown."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vgen.app.judging.clip_store import ClipStore, fingerprint, truth
from vgen.app.judging.results import Result
from vgen.data.clip_files import enlarged
from vgen.data.files import write_whole
from vgen.data.mp4 import encode_mp4
from vgen.metrics.suite import Task

CRF = 16


@dataclass(slots=True)
class Media:
    """``folder`` of mp4 files. Clips are asked for first and written together, as encoding is what takes
    time."""

    folder: Path
    fps: float
    least_px: int
    wanted: dict[str, Callable[[], np.ndarray]] = field(default_factory=dict)

    def take(self, result: Result, task: Task) -> str:
        """File name of what a checkpoint made of a task; the result's own report may have encoded it
        already."""
        own, mine = (
            place / f"{result.rows[task.id]['clip']}.mp4"
            for place in (result.folder / "report" / "clips", self.folder)
        )
        if own.is_file() and not mine.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(own, mine)
        return self._ask(
            result.rows[task.id]["clip"], lambda: ClipStore(result.folder).read(result.name, task)
        )

    def truth(self, task: Task, size_px: int) -> str:
        return self.clip(truth(task, size_px))

    def clip(self, video: np.ndarray) -> str:
        return self._ask(fingerprint(video), lambda: video)

    def later(self, mark: str, read: Callable[[], np.ndarray]) -> str:
        """File name of a clip whose fingerprint is known; it is read when it is encoded."""
        return self._ask(mark, read)

    def _ask(self, mark: str, read: Callable[[], np.ndarray]) -> str:
        name = f"{mark}.mp4"
        if not (self.folder / name).is_file():
            self.wanted[name] = read
        return name

    def write(self, num_threads: int = 2) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

        def encode(name: str) -> None:
            video = enlarged(self.wanted[name](), self.least_px)
            even = video[:, : video.shape[1] // 2 * 2, : video.shape[2] // 2 * 2]
            write_whole(self.folder / name, encode_mp4(even, self.fps, crf=CRF))

        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(encode, self.wanted))
        self.wanted.clear()
