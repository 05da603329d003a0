"""A finished evaluation in Weights & Biases: one run per checkpoint and suite. A mirror: the truth is
``summary.json``."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vgen.app.judging.evaluation import EvaluateRun
from vgen.app.judging.media import Media
from vgen.app.judging.page import clip_fps, merit
from vgen.app.judging.results import Result
from vgen.training.records import ANSWER_SECONDS, WandbMode, effective_mode, say_offline, taken_no_run

_IDS = "wandb_ids.json"


def mirror(run: EvaluateRun, results: Sequence[Result], config: dict[str, Any]) -> list[str]:
    """Records every result; returns a sentence for each, or nothing where W&B is disabled."""
    mode = effective_mode(run.logger)
    if mode is WandbMode.DISABLED:
        return []
    if "WANDB_SWEEP_ID" in os.environ and len(results) > 1:
        names = ", ".join(r.name for r in results)
        raise ValueError(
            f"a trial of a W&B sweep is one run and takes one checkpoint, got {names}; let the sweep choose "
            "adapter"
        )
    import wandb

    told = []
    for result in results:
        try:
            told.append(_record(run, result, config, mode))
        except wandb.errors.Error as error:
            if mode is WandbMode.OFFLINE:
                raise
            wandb.teardown()  # its service holds the run's id, and would refuse it offline too
            say_offline(taken_no_run(error))
            mode = WandbMode.OFFLINE
            told.append(_record(run, result, config, mode))
    return told


def _record(run: EvaluateRun, result: Result, config: dict[str, Any], mode: WandbMode) -> str:
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_DISABLE_CODE", "true")
    import wandb

    name = f"{result.summary['suite_name']}/{result.folder.name}/{result.name}"
    with wandb.init(
        project=run.logger.project,
        entity=run.logger.entity,
        group=run.logger.group or run.sweep or None,
        job_type="eval",
        name=name,
        tags=tags(run, result),
        config={
            **config,
            "sampler": result.summary["sampler"],  # where the suite has a grid, the command's own is another
            "checkpoint": result.name,
            "identity": result.numbers["identity"],
            "rule": result.summary["rule"],
        },
        dir=str(result.folder),
        mode="offline" if mode is WandbMode.OFFLINE else "online",
        settings=wandb.Settings(init_timeout=ANSWER_SECONDS),
        # else every job of a multirun in one process would write into the first one's run
        reinit="finish_previous",
        **_continued(result),
    ) as record:
        record.log({"clips": _table(wandb, run, result)})
        record.summary.update(dict(scalars(result)))
        return (
            f"W&B: {record.name} "
            f"({'offline, under ' + str(result.folder / 'wandb') if mode is WandbMode.OFFLINE else record.url})"  # noqa: E501
        )


def _continued(result: Result) -> dict[str, Any]:
    """Scoring again goes on with the same W&B run; in a W&B sweep the agent says which run it is."""
    if "WANDB_SWEEP_ID" in os.environ:
        return {}
    path = result.folder / _IDS
    ids = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    ids.setdefault(result.name, secrets.token_hex(4))
    path.write_text(json.dumps(ids, indent=1), encoding="utf-8")
    return {"id": ids[result.name], "resume": "allow"}


def tags(run: EvaluateRun, result: Result) -> list[str]:
    """Suite with its version, checkpoint, vgen; W&B takes 64 letters."""
    suite = f"{result.summary['suite_name']}-v{result.summary['rule']['version']}"
    return [
        tag[:64]
        for tag in (
            *run.logger.tags,
            f"suite:{suite}",
            f"checkpoint:{result.name}",
            f"vgen:{result.summary['vgen']}",
        )
    ]


def scalars(result: Result) -> Iterator[tuple[str, float | bool]]:
    """Headlines with their intervals and by bucket, the gap to held-out combinations, floors, ceiling and
    cost; all other means."""
    numbers, found = result.numbers, result.summary
    for key in result.headlines:
        x = numbers["overall"][key]
        yield from (
            (name, x[part])
            for name, part in ((key, "mean"), (f"{key}/low", "low"), (f"{key}/high", "high"))
            if x[part] is not None
        )
        yield from (
            (f"{key}/{b}", of[key]["mean"])
            for b, of in numbers["buckets"].items()
            if of[key]["mean"] is not None
        )
        if found["floors"][key][0] is not None:
            yield f"{key}/floor", found["floors"][key][0]
        if found["ceiling"].get(key) is not None:
            yield f"{key}/ceiling", found["ceiling"][key]
    yield from _of_sets(result)
    yield from ((f"gap/{part}", value) for part, value in (numbers["gap"] or {}).items())
    yield from ((f"cost/{key}", value) for key, value in numbers["cost"].items() if value is not None)
    yield from ((f"all/{key}", x["mean"]) for key, x in numbers["overall"].items() if x["mean"] is not None)
    yield from (
        (f"learned/{key}", x["value"]) for key, x in numbers["learned"].items() if x["value"] is not None
    )
    yield "num_clips", len(result.rows)
    if found["valid"] is not None:
        yield "valid", found["valid"]


def _of_sets(result: Result) -> Iterator[tuple[str, float]]:
    """Numbers of many clips together, with what intervals they have."""
    for key, x in result.numbers["set"].items():
        parts = (("", "mean"), ("/low", "low"), ("/high", "high"))
        yield from ((f"set/{key}{name}", x[part]) for name, part in parts if x[part] is not None)


def worst_first(result: Result, most: int) -> list[dict[str, Any]]:
    return sorted(result.rows.values(), key=merit)[:most]


def _table(wandb: Any, run: EvaluateRun, result: Result) -> Any:
    """At most ``page.max_rows`` clips, worst first, each with the truth beside it."""
    todo = {task.id: task for task in result.tasks()}
    media = Media(result.folder / "report" / "clips", clip_fps(run.page, result.summary), run.page.least_px)
    chosen = worst_first(result, run.page.max_rows)
    files = {
        row["id"]: (
            media.truth(todo[row["id"]], result.summary["size_px"]),
            media.take(result, todo[row["id"]]),
        )
        for row in chosen
    }
    media.write()
    numbers = [k for k, v in chosen[0].items() if v is None or (isinstance(v, int | float) and k != "seed")]
    table = wandb.Table(columns=["id", "bucket", "caption", "seed", "truth", result.name, *numbers])
    for row in chosen:
        videos = [wandb.Video(str(Path(media.folder) / name), format="mp4") for name in files[row["id"]]]
        table.add_data(
            row["id"], row["bucket"], row["caption"], row["seed"], *videos, *(row[k] for k in numbers)
        )
    return table
