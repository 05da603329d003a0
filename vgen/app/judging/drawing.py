"""The clips of an evaluation: drawn or read, each once, and waited for where other processes draw them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from rich.progress import Progress

from vgen.app.judging.clip_store import CEILING, SOURCE, ClipStore, read_clip, truth
from vgen.app.judging.evaluation import EvaluateRun, Stage
from vgen.app.judging.shares import Share, wait_for
from vgen.app.judging.sources import Reconstruct, Source
from vgen.metrics.suite import Task


def draw(
    run: EvaluateRun,
    store: ClipStore,
    sources: dict[str, Source],
    todo: list[Task],
    mine: Share,
    progress: Progress,
) -> None:
    """This process's share of the clips that are not there yet, of every checkpoint or set of videos."""
    for name, source in sources.items():
        missing = store.missing(name, todo)
        if not missing:
            continue
        bar = progress.add_task(
            f"drawing {name}" if source.drawn else f"reading {name}",
            total=len(todo),
            completed=len(todo) - len(missing),
        )
        work, size = (
            source.work,
            1 if source.work else run.batch_size,
        )  # what goes clip by clip is kept clip by clip
        count = (lambda: 0) if work is None else (lambda work=work: work.unet_frames)
        for num in store.fill(
            name, todo, _once(source.open), size, mine.pair(), timed=source.drawn, work=count
        ):
            progress.advance(bar, num)


_T = TypeVar("_T")
_R = TypeVar("_R")


def _once(open_: Callable[[], Callable[[_T], _R]]) -> Callable[[_T], _R]:
    """Opened with the first call, so that a process without a share loads nothing."""
    opened: list[Callable[[_T], _R]] = []

    def act(given: _T) -> _R:
        if not opened:
            opened.append(open_())
        return opened[0](given)

    return act


def claiming(
    open_: Callable[[], Callable[[_T], _R]], claim: Callable[[], None]
) -> Callable[[], Callable[[_T], _R]]:
    """The folder is claimed when there is a first clip to keep, so that settings that are refused in drawing
    leave it as it is."""

    def opened() -> Callable[[_T], _R]:
        make = open_()

        def act(given: _T) -> _R:
            made = make(given)
            claim()
            return made

        return act

    return opened


def _source(task: Task, size_px: int) -> np.ndarray:
    through = task.kind.through_codec
    assert through is not None, f"task {task.id} is of kind {task.kind.name}, which is held to no clip"
    return through(task, size_px).copy()  # what is rendered once for all is not to be written to


def draw_codec(
    run: EvaluateRun,
    store: ClipStore,
    needed: Sequence[str],
    todo: list[Task],
    mine: Share,
    reconstruct: Callable[[], Reconstruct],
    progress: Progress,
) -> None:
    """What encoder and decoder alone make of the truth (the ceiling; the first process does that) and of the
    clips that tasks are held to."""
    through = _once(reconstruct)
    like = next((store.path(needed[0], task) for task in todo if store.path(needed[0], task).is_file()), None)
    size_px = 64 if like is None else read_clip(like).shape[1]
    for task in store.missing(CEILING, todo[: run.selftest]) if mine.index == 0 else []:
        store.write(CEILING, task, through(truth(task, size_px)))
    if SOURCE in needed and store.missing(SOURCE, todo):
        bar = progress.add_task("sources through the decoder", total=len(todo))

        def sources(batch: list[Task]) -> np.ndarray:
            return np.stack([through(_source(task, size_px)) for task in batch])

        for num in store.fill(SOURCE, todo, sources, 1, mine.pair(), timed=False):
            progress.advance(bar, num)


def await_others(
    run: EvaluateRun, store: ClipStore, names: list[str], todo: list[Task], mine: Share, progress: Progress
) -> None:
    """The first rank scores when the others have drawn. Raises ValueError where they stopped."""

    def num_missing() -> int:
        return sum(len(store.missing(name, todo)) for name in names)

    patience = run.wait_minutes * 60 if mine.of > 1 and run.stage is Stage.ALL else 0.0
    left = num_missing()
    if left and patience:
        bar = progress.add_task("waiting for other ranks", total=left)
        left = wait_for(num_missing, patience, lambda now: progress.update(bar, completed=left - now))
    if left:
        why = (
            f"no rank has drawn anything for {run.wait_minutes:g} minutes"
            if patience
            else "nothing is drawn while stage=score"
        )
        raise ValueError(
            f"{left} of {len(todo) * len(names)} clips are missing in {store.folder} and {why}; "
            "run the same command without share and stage to draw what is left and score everything"
        )
