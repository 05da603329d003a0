"""Videos of any tool with prompts of their own: no suite and no truth, so what looks through a network, or at
pixels, judges alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from rich.console import Console

import vgen
from vgen.app.judging.clip_store import ClipStore, fingerprint
from vgen.app.judging.evaluation import NO_SUITE, EvaluateRun
from vgen.app.judging.learned import better, check, table
from vgen.app.judging.media import Media
from vgen.app.judging.page import write_report
from vgen.app.judging.results import Result, load
from vgen.app.judging.video_set import VideoSet, open_own, read_video
from vgen.app.refusals import listed
from vgen.metrics.learned.clips import Clips
from vgen.metrics.learned.measure import measure

_FEW = 3


def judge(run: EvaluateRun, console: Console) -> dict[str, Any]:
    """Measure every folder, write ``summary.json``, ``scores.jsonl`` and ``report/`` as an evaluation does;
    returns the summary."""
    if run.adapter or not run.videos:
        raise ValueError(
            f"suite={NO_SUITE} has no prompts to draw; give videos=FOLDER with prompts of its own, and no "
            "adapter"
        )
    if not run.metrics:
        raise ValueError(
            f"suite={NO_SUITE} has no truth to score against; name metrics=[clip_text,...], see "
            "docs/guides/metrics.md"
        )
    sets, words = _opened(run)
    any_clip = read_video(next(iter(next(iter(sets.values())).clips.values())))
    check(run.metrics, run.learned, len(words), len(any_clip))
    store, rows, checkpoints = ClipStore(run.folder()), [], {}
    for name, videos in sets.items():
        checkpoints[name], mine = _measured(run, name, videos, words)
        rows += mine
    store.write_text("scores.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    found = _summary(run, words, checkpoints, list(any_clip.shape[1:3]), len(any_clip))
    store.write_json("summary.json", found)
    results = load(store.folder)
    console.print(table(results))
    page = _show(run, store.folder / "report", results, sets)
    console.print(f"{len(rows)} clips: {page}", soft_wrap=True)
    return found


def _show(run: EvaluateRun, folder: Path, results: list[Result], sets: dict[str, VideoSet]) -> Path:
    """The report, whose gallery has each prompt's clips side by side with what the metrics say of each. By
    the first metric, those furthest apart come first, and of one set alone the worst."""
    media = Media(folder / "clips", run.page.fps, run.page.least_px)
    measured = list(dict.fromkeys(name for r in results for name in r.numbers["learned"]))

    def take(result: Result, key: str) -> dict[str, Any]:
        row, path = result.rows[key], sets[result.name].clips[key]
        values = {name: f"{row[name]:.4g}" for name in measured if row.get(name) is not None}
        src = media.later(row["clip"], lambda: read_video(path))
        return {"src": src, "mark": row["clip"], "exact": None, "chips": {}, "values": values}

    def rank(key: str) -> float:
        found = [x for r in results if (x := r.rows[key].get(measured[0])) is not None]
        if not found:
            return 0.0
        return (
            min(found) - max(found)
            if len(results) > 1
            else found[0] * (-1 if better(measured[0]) == "lower" else 1)
        )

    shown = sorted(results[0].rows, key=rank)[: run.page.max_clips]
    clips = [
        {
            "id": "",
            "bucket": "",
            "caption": results[0].rows[key]["caption"],
            "takes": [take(result, key) for result in results],
        }
        for key in shown
    ]
    media.write()
    return write_report(folder, results, run.page, gallery=(clips, {}))


def _opened(run: EvaluateRun) -> tuple[dict[str, VideoSet], dict[str, str]]:
    """Sets by short name, and the words of the first. Raises ValueError unless all have the same prompts."""
    opened = {name: open_own(place, run.prompts) for name, place in run.names().items()}
    (first, (_, words)), *others = opened.items()
    for name, (_, theirs) in others:
        lacking = {first: sorted(set(theirs) - set(words)), name: sorted(set(words) - set(theirs))}
        told = [
            f"{who} lacks {len(what)} prompts (such as {listed(map(repr, what[:_FEW]))})"
            for who, what in lacking.items()
            if what
        ]
        if told:
            raise ValueError(
                f"sets are compared prompt by prompt, but {' and '.join(told)}; complete them or give them "
                "one by one"
            )
    return {name: videos for name, (videos, _) in opened.items()}, words


def _measured(
    run: EvaluateRun, name: str, videos: VideoSet, words: dict[str, str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Numbers of a set, and a row for each of its clips."""
    clips = {key: read_video(videos.clips[key]) for key in words}
    identity = videos.identity()
    given = Clips(
        videos=list(clips.values()), prompts=list(words.values()), codec=", ".join(identity["decoded_from"])
    )
    found = {metric: result.to_dict() for metric, result in measure(run.metrics, given, run.learned).items()}
    cost = {"unet_calls": None, "seconds_per_clip": None}
    numbers = {
        "identity": identity,
        "learned": found,
        "overall": {},
        "buckets": {},
        "set": {},
        "gap": None,
        "cost": cost,
    }
    per_clip = {
        metric: result["per_clip"] for metric, result in found.items() if result["per_clip"] is not None
    }
    rows = []
    for i, (key, video) in enumerate(clips.items()):
        said = {
            "checkpoint": name,
            "id": key,
            "bucket": "own",
            "group": key,
            "caption": words[key],
            "clip": fingerprint(video),
        }
        rows.append(said | {metric: values[i] for metric, values in per_clip.items()})
    return numbers, rows


def _summary(
    run: EvaluateRun, words: dict[str, str], checkpoints: dict[str, Any], size: list[int], num_frames: int
) -> dict[str, Any]:
    prompts = hashlib.sha256("\n".join(sorted(words)).encode()).hexdigest()
    return {
        "vgen": vgen.__version__,
        "suite_name": run.suite_name,
        "kind": "own prompts",
        "rule": {"kind": "own prompts", "prompts": prompts},
        "checkpoints": checkpoints,
        "headlines": [],
        "metrics": [],
        "sampler": {},
        "valid": None,
        "num_clips": len(words),
        "num_frames": num_frames,
        "size_px": size,
        "self_test": {},
        "num_selftest": 0,
        "floors": {},
        "ceiling": {},
        "differences": {},
    }
