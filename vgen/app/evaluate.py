"""``vgen evaluate``: draw a suite with one or several checkpoints, or take videos of other tools, score them,
and show it all."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

import vgen
from vgen.app.bars import Bars
from vgen.app.config import job_suffix, run_hydra
from vgen.app.judging.audit import audited
from vgen.app.judging.clip_store import SOURCE, ClipStore
from vgen.app.judging.drawing import await_others, claiming, draw, draw_codec
from vgen.app.judging.evaluation import NO_SUITE, EvaluateRun, Stage
from vgen.app.judging.given import write_inputs
from vgen.app.judging.learned import check, measured
from vgen.app.judging.learned import table as learned_table
from vgen.app.judging.old_spelling import moved, respelt
from vgen.app.judging.page import write_report
from vgen.app.judging.recall import identity, recalled, taught_scenes
from vgen.app.judging.results import headline_table, load
from vgen.app.judging.scoreboard import ceiling_rows, lines, summary
from vgen.app.judging.scorer import codec_is_known, score_all
from vgen.app.judging.shares import share
from vgen.app.judging.sources import (
    Reconstruct,
    Source,
    codec_of,
    cost,
    decoder,
    image_model_digest,
    sources_of,
)
from vgen.app.judging.suite_edits import editors
from vgen.app.judging.tracking import mirror
from vgen.app.sweep import aggregate
from vgen.app.terminal import Terminal
from vgen.formats.adapter import plain
from vgen.metrics.suite import Task
from vgen.toybox.scenes import Scene

_INPUT_PX = 64
__all__ = ["EvaluateRun", "Evaluated", "Source", "Stage", "evaluate"]


@dataclass(frozen=True, slots=True)
class Evaluated:
    folder: Path
    summary: dict[str, Any]


def offer() -> None:
    store = ConfigStore.instance()
    store.store(name="evaluate_schema", node=EvaluateRun)
    for name, recipe in editors().items():
        store.store(group="method", name=name, node=recipe)


def main() -> None:
    for sentence in moved(sys.argv[1:]):
        print(f"vgen evaluate: {sentence}", file=sys.stderr)
    sys.argv[1:] = respelt(sys.argv[1:])
    _refuse_knobs_of_several_methods(sys.argv[1:])
    sweeps: set[Path] = set()

    def job(run: EvaluateRun, config: dict[str, Any]) -> float | None:
        if job_suffix() and not run.sweep:
            raise ValueError(
                "the evaluations of a multirun need a name, by which folders, leaderboard and W&B know "
                "them: add sweep=NAME"
            )
        if run.suite_name == NO_SUITE:
            from vgen.app.judging.own_prompts import judge

            judge(run, Terminal())
            return None
        done = evaluate_points(run, config=config)
        if run.sweep or len(run.suite.grid.points()) > 1:
            sweeps.update(one.folder.parent for one in done)
        return _objective(run, done) if done else None

    run_hydra("evaluate", offer, job)
    for folder in sweeps:
        aggregate(folder, Terminal())


def _refuse_knobs_of_several_methods(words: Sequence[str]) -> None:
    """Hydra would apply a knob before it has chosen between the methods of a multirun, and fail within
    itself."""
    several = [word for word in words if word.startswith("method=") and "," in word]
    knobs = [word for word in words if word.startswith("method.")]
    if several and knobs:
        raise ValueError(
            f"{' '.join(knobs)} belongs to one method, and {several[0]} are several; give "
            "suite.grid.num_steps=[20] or "
            "suite.grid.guidance=[3], or one command for each method with the same sweep"
        )


def _objective(run: EvaluateRun, done: Sequence[Evaluated]) -> float | None:
    """What a sweeper that learns from its trials maximises: the best checkpoint's, at the best point of the
    suite's grid."""
    key = run.objective or done[0].summary["headlines"][0]
    numbers = [of["overall"] for one in done for of in one.summary["checkpoints"].values()]
    if key not in numbers[0]:
        raise ValueError(f"objective={key} is not a number of this suite; it has {', '.join(numbers[0])}")
    values = [of[key]["mean"] for of in numbers if of[key]["mean"] is not None]
    if run.objective and not values:
        raise ValueError(
            f"objective={key} has a value in none of the {done[0].summary['num_clips']} clips; choose "
            "another, as exact"
        )
    return max(values, default=None)


def evaluate_points(
    run: EvaluateRun,
    console: Console | None = None,
    sources: dict[str, Source] | None = None,
    config: dict[str, Any] | None = None,
) -> list[Evaluated]:
    """Every point of the suite's grid, one after another, in folders side by side; what other processes score
    is left out."""
    console = console or Terminal()
    if run.stage is Stage.PROMPTS:
        evaluate(run, console)
        return []
    points, done = run.points(), []
    for i, point in enumerate(points):
        if len(points) > 1:
            console.print(
                f"[bold]{i + 1}/{len(points)}[/] of the grid of suite {run.suite_name}: {point.said()}"
            )
        one = evaluate(point, console, sources, config=config)
        done += [one] if one is not None else []
    return done


def evaluate(
    run: EvaluateRun,
    console: Console | None = None,
    sources: dict[str, Source] | None = None,
    reconstruct: Callable[[], Reconstruct] | None = None,
    config: dict[str, Any] | None = None,
) -> Evaluated | None:
    """Draw what is missing, then score everything; None for a process that leaves scoring to another or to
    later. ``sources`` and ``reconstruct`` stand for the run's checkpoints and decoder in tests."""
    console = console or Terminal()
    todo, mine, store = run.tasks(), share(run.share), ClipStore(run.folder())
    if run.stage is Stage.PROMPTS:
        write_prompts(store, todo, console)
        return None
    if run.metrics:
        check(run.metrics, run.learned, len(todo), run.suite.num_frames)
    taught = [] if run.stage is Stage.SAMPLE or mine.index else taught_scenes(run, todo[0].kind)
    if sources is None:
        sources = sources_of(run, todo)
        codec = codec_of(run)
        reconstruct = (
            (lambda: decoder(codec, "" if run.backbone else f"adapter={run.adapter[0]}")) if codec else None
        )
    known = _identity(run, sources)
    store.refuse_other(known)
    claim = cache(lambda: store.claim(known))
    sources = {name: replace(source, open=claiming(source.open, claim)) for name, source in sources.items()}
    reconstruct = claiming(reconstruct, claim) if reconstruct is not None else None
    held_to_a_clip = todo[0].kind.through_codec is not None
    needed = [*sources, *([SOURCE] if held_to_a_clip and reconstruct is not None else [])]
    began = time.perf_counter()
    with _progress(console) as progress:
        if run.stage is not Stage.SCORE:
            draw(run, store, sources, todo, mine, progress)
            if reconstruct is not None:
                draw_codec(run, store, needed, todo, mine, reconstruct, progress)
        if run.stage is Stage.SAMPLE or mine.index:
            return None
        await_others(run, store, needed, todo, mine, progress)
        claim()
        done = _score(run, store, sources, todo, progress, taught)
    _show(run, store, done, config or {}, console)
    console.print(
        f"{len(todo) * len(sources)} clips in {time.perf_counter() - began:.0f} s: "
        f"{store.folder / 'report' / 'index.html'}",
        soft_wrap=True,
    )
    return done


def _identity(run: EvaluateRun, sources: dict[str, Source]) -> dict[str, Any]:
    """What the manifest says."""
    return {
        "vgen": vgen.__version__,
        "suite": run.suite.rule(),
        "sampler": run.settings(),
        "checkpoints": {name: s.identity for name, s in sources.items()},
    }


def write_prompts(store: ClipStore, todo: list[Task], console: Console) -> None:
    """What any other tool needs: file name, caption, seed and length of each clip, and what it is made
    from."""
    rows = [
        {
            "file": f"{t.id}.mp4",
            "caption": t.caption,
            "seed": t.seed,
            "num_frames": t.scene.num_frames,
            "bucket": t.bucket.value,
        }
        | write_inputs(store.folder, t, _INPUT_PX)
        for t in todo
    ]
    store.write_text("prompts.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    console.print(
        f"{len(rows)} prompts: {store.folder / 'prompts.jsonl'}; put the videos beside it and score them "
        f"with videos={store.folder}"
    )


def _score(
    run: EvaluateRun,
    store: ClipStore,
    sources: dict[str, Source],
    todo: list[Task],
    progress: Progress,
    taught: list[Scene],
) -> Evaluated:
    bar = progress.add_task("scoring", total=len(todo) * len(sources))
    rows = recalled(
        score_all(
            store,
            list(sources),
            todo,
            lambda: progress.advance(bar),
            run.num_processes or os.cpu_count() or 1,
        ),
        taught,
    )
    size_px = store.read(rows[0].checkpoint, todo[0]).shape[1]
    ceiling = recalled(ceiling_rows(store, todo[: run.selftest]), taught)
    found = summary(rows, ceiling, todo, run.selftest, size_px, taught)
    for name, source in sources.items():
        calls = _calls(run, store, name, source)
        spent = store.seconds_per_clip(name)
        extra = measured(store, name, todo, run.metrics, run.learned, source.codec) if run.metrics else {}
        found["checkpoints"][name] |= {
            "identity": source.identity,
            "cost": {
                "unet_calls": calls,
                "seconds_per_clip": spent,
                "peak_gib": store.peak_gib(name),
            },
            "learned": extra,
        }
    found |= {
        "vgen": vgen.__version__,
        "suite_name": run.suite_name,
        "suite": plain(asdict(run.whole_suite())),
        "rule": run.suite.rule(),
        "audit": audited(store, list(sources), todo[: run.selftest], size_px),
        "sampler": run.settings(),
        "corpus": identity(run.corpus, taught),
        "codec": _codec_digest(run) if codec_is_known(store, todo) else None,
        "num_frames": run.suite.num_frames,
        "size_px": size_px,
    }
    store.write_text("scores.jsonl", lines(rows))
    store.write_json("summary.json", found)
    return Evaluated(store.folder, found)


def _calls(run: EvaluateRun, store: ClipStore, name: str, source: Source) -> int | None:
    """Times that the UNet sees the frames of one clip, forward; None for clips that were not drawn."""
    if source.work is None:
        return cost(run.drawn(), run.suite.num_frames) if source.drawn else None
    frames = store.unet_frames_per_clip(name)
    return None if frames is None else round(frames / run.suite.num_frames)


def _codec_digest(run: EvaluateRun) -> str | None:
    codec = codec_of(run)
    return None if codec is None else image_model_digest(codec)


def _show(
    run: EvaluateRun, store: ClipStore, done: Evaluated, config: dict[str, Any], console: Console
) -> None:
    results = load(store.folder)
    console.print(headline_table(done.summary))
    if run.metrics:
        console.print(learned_table(results))
    if done.summary["valid"] is False:
        console.print(
            "[bold red]not valid:[/] the oracle can't read what the image model's decoder makes of the "
            "truth, so these numbers say nothing"
        )
    write_report(store.folder / "report", results, run.page, console)
    for told in mirror(run, results, config):
        console.print(told)


def _progress(console: Console) -> Bars:
    return Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("clips"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        unit="clip",
    )


if __name__ == "__main__":
    from vgen.app.cli import run as run_verb

    raise SystemExit(run_verb("evaluate"))
