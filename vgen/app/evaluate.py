"""``vgen evaluate``: draw a suite with one or several checkpoints, or take videos of other tools, score them, and show it all."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.config_store import ConfigStore
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import vgen
from vgen.app.clip_store import CEILING, ClipStore, truth
from vgen.app.config import job_suffix, run_hydra
from vgen.app.evaluation import SWEEPS, EvaluateRun, Stage
from vgen.app.given import write_inputs
from vgen.app.leaderboard import aggregate
from vgen.app.learned import check, measured
from vgen.app.page import write_report
from vgen.app.results import headline_table, load
from vgen.app.scoreboard import ceiling_rows, lines, summary
from vgen.app.scorer import score_all
from vgen.app.shares import Share, share, wait_for
from vgen.app.sources import Reconstruct, Source, cost, decoder, sources_of
from vgen.app.tracking import mirror
from vgen.formats.adapter import plain
from vgen.metrics.suite import Task
from vgen.resources import conf_dir

_INPUT_PX = 64
__all__ = ["EvaluateRun", "Evaluated", "Source", "Stage", "evaluate"]


@dataclass(frozen=True, slots=True)
class Evaluated:
    folder: Path
    summary: dict[str, Any]


def offer() -> None:
    ConfigStore.instance().store(name="evaluate_schema", node=EvaluateRun)


def main() -> None:
    offer()
    sweeps: set[Path] = set()

    def job(run: EvaluateRun, config: dict[str, Any]) -> float | None:
        if job_suffix() and not run.sweep:
            raise ValueError("the evaluations of a multirun need a name, by which folders, leaderboard and W&B know them: add sweep=NAME")
        done = evaluate(run, config=config)
        sweeps.update([SWEEPS / run.sweep] if run.sweep and done is not None and share(run.share).index == 0 else [])
        return None if done is None else _objective(run, done)

    run_hydra("evaluate", str(conf_dir() / "evaluate"), job)
    for folder in sweeps:
        aggregate(folder, Console())


def _objective(run: EvaluateRun, done: Evaluated) -> float | None:
    """What a sweeper that learns from its trials maximises."""
    key = run.objective or done.summary["headlines"][0]
    found = [numbers["overall"].get(key) for numbers in done.summary["checkpoints"].values()]
    if None in found:
        known = next(iter(done.summary["checkpoints"].values()))["overall"]
        raise ValueError(f"objective={key} is not a number of this suite; it has {', '.join(known)}")
    return max(f["mean"] for f in found if f["mean"] is not None)


def evaluate(
    run: EvaluateRun,
    console: Console | None = None,
    sources: dict[str, Source] | None = None,
    reconstruct: Callable[[], Reconstruct] | None = None,
    config: dict[str, Any] | None = None,
) -> Evaluated | None:
    """Draw what is missing, then score everything; None for a process that leaves scoring to another or to later. ``sources`` and
    ``reconstruct`` stand for the run's checkpoints and decoder in tests."""
    console = console or Console()
    todo, mine, store = run.tasks(), share(run.share), ClipStore(run.folder())
    if run.stage is Stage.PROMPTS:
        write_prompts(store, todo, console)
        return None
    if run.metrics:
        check(run.metrics, run.learned, len(todo), run.suite.num_frames)
    if sources is None:
        sources = sources_of(run, todo)
        reconstruct = (lambda: decoder(run.backbone)) if run.adapter else None
    store.claim(_identity(run, sources))
    began = time.perf_counter()
    with _progress(console) as progress:
        if run.stage is not Stage.SCORE:
            _draw(run, store, sources, todo, mine, progress)
            if mine.index == 0 and reconstruct is not None:
                _draw_ceiling(store, next(iter(sources)), todo[: run.selftest], reconstruct)
        if run.stage is Stage.SAMPLE or mine.index:
            return None
        _await(run, store, list(sources), todo, mine, progress)
        done = _score(run, store, sources, todo, progress)
    _show(run, store, done, config or {}, console)
    console.print(
        f"{len(todo) * len(sources)} clips in {time.perf_counter() - began:.0f} s: {store.folder / 'report' / 'index.html'}", soft_wrap=True
    )
    return done


def _identity(run: EvaluateRun, sources: dict[str, Source]) -> dict[str, Any]:
    return {
        "vgen": vgen.__version__,
        "suite": run.suite.rule(),
        "sampler": run.sampling(),
        "checkpoints": {name: s.identity for name, s in sources.items()},
    }


def write_prompts(store: ClipStore, todo: list[Task], console: Console) -> None:
    """What any other tool needs: file name, caption, seed and length of each clip, and what it is made from."""
    rows = [
        {"file": f"{t.id}.mp4", "caption": t.caption, "seed": t.seed, "num_frames": t.scene.num_frames, "bucket": t.bucket.value}
        | write_inputs(store.folder, t, _INPUT_PX)
        for t in todo
    ]
    store.write_text("prompts.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    console.print(
        f"{len(rows)} prompts: {store.folder / 'prompts.jsonl'}; put the videos beside it and score them with videos={store.folder}"
    )


def _draw(run: EvaluateRun, store: ClipStore, sources: dict[str, Source], todo: list[Task], mine: Share, progress: Progress) -> None:
    for name, source in sources.items():
        missing = store.missing(name, todo)
        if missing:
            bar = progress.add_task(
                f"drawing {name}" if source.drawn else f"reading {name}", total=len(todo), completed=len(todo) - len(missing)
            )
            for num in store.fill(name, todo, _once(source), run.batch_size, mine.pair(), timed=source.drawn):
                progress.advance(bar, num)


def _once(source: Source) -> Callable[[list[Task]], np.ndarray]:
    """Opened with the first batch, so that a process without a share loads nothing."""
    opened: list[Callable[[list[Task]], np.ndarray]] = []

    def draw(batch: list[Task]) -> np.ndarray:
        if not opened:
            opened.append(source.open())
        return opened[0](batch)

    return draw


def _draw_ceiling(store: ClipStore, like: str, todo: list[Task], reconstruct: Callable[[], Reconstruct]) -> None:
    missing = store.missing(CEILING, todo)
    if missing:
        through = reconstruct()
        drawn = [task for task in todo if store.path(like, task).is_file()]
        size_px = store.read(like, drawn[0]).shape[1] if drawn else 64
        for task in missing:
            store.write(CEILING, task, through(truth(task, size_px)))


def _await(run: EvaluateRun, store: ClipStore, names: list[str], todo: list[Task], mine: Share, progress: Progress) -> None:
    """The first rank scores when the others have drawn. Raises ValueError where they stopped."""

    def num_missing() -> int:
        return sum(len(store.missing(name, todo)) for name in names)

    patience = run.wait_minutes * 60 if mine.of > 1 and run.stage is Stage.ALL else 0.0
    left = num_missing()
    if left and patience:
        bar = progress.add_task("waiting for other ranks", total=left)
        left = wait_for(num_missing, patience, lambda now: progress.update(bar, completed=left - now))
    if left:
        why = f"no rank has drawn anything for {run.wait_minutes:g} minutes" if patience else "nothing is drawn while stage=score"
        raise ValueError(
            f"{left} of {len(todo) * len(names)} clips are missing in {store.folder} and {why}; "
            "run the same command without share and stage to draw what is left and score everything"
        )


def _score(run: EvaluateRun, store: ClipStore, sources: dict[str, Source], todo: list[Task], progress: Progress) -> Evaluated:
    bar = progress.add_task("scoring", total=len(todo) * len(sources))
    rows = score_all(store, list(sources), todo, lambda: progress.advance(bar), run.num_processes or os.cpu_count() or 1)
    size_px = store.read(rows[0].checkpoint, todo[0]).shape[1]
    found = summary(rows, ceiling_rows(store, todo[: run.selftest]), todo, run.selftest, size_px)
    for name, source in sources.items():
        calls = cost(run.sampler, run.suite.num_frames) if source.drawn else None
        spent = store.seconds_per_clip(name)
        extra = measured(store, name, todo, run.metrics, run.learned, source.codec) if run.metrics else {}
        found["checkpoints"][name] |= {
            "identity": source.identity,
            "cost": {"unet_calls": calls, "seconds_per_clip": spent},
            "learned": extra,
        }
    found |= {
        "vgen": vgen.__version__,
        "suite_name": run.suite_name,
        "suite": plain(asdict(run.whole_suite())),
        "rule": run.suite.rule(),
        "sampler": run.sampling(),
        "num_frames": run.suite.num_frames,
        "size_px": size_px,
    }
    store.write_text("scores.jsonl", lines(rows))
    store.write_json("summary.json", found)
    return Evaluated(store.folder, found)


def _show(run: EvaluateRun, store: ClipStore, done: Evaluated, config: dict[str, Any], console: Console) -> None:
    results = load(store.folder)
    console.print(headline_table(done.summary))
    if done.summary["valid"] is False:
        console.print(
            "[bold red]not valid:[/] the oracle can't read what the image model's decoder makes of the truth, so these numbers say nothing"
        )
    write_report(store.folder / "report", results, run.page, console)
    for told in mirror(run, results, config):
        console.print(told)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("clips"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


if __name__ == "__main__":
    from vgen.app.cli import run as run_verb

    raise SystemExit(run_verb("evaluate"))
