"""Rows to means with intervals, beside what tricks earn and what the decoder allows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from vgen.app.judging.clip_store import CEILING, SOURCE, ClipStore
from vgen.app.judging.recall import copied
from vgen.app.judging.results import counted_things
from vgen.app.judging.scorer import Row, codec_is_known, score_one
from vgen.data.mp4 import decode_mp4, encode_mp4
from vgen.metrics.metric import Numbers
from vgen.metrics.scoring import metrics_of
from vgen.metrics.selftest import CONTROLS, LOWEST_CEILING, self_test, tricks_of
from vgen.metrics.statistics import Resampled, interval, paired_difference
from vgen.metrics.suite import Task, TaskKind
from vgen.metrics.text_accuracy import CHANCE, chance_corrected
from vgen.toybox.scenes import Scene

HELD_OUT = ("pair", "triple")
H264 = "H.264"
FLICKER = "bgflick"
_CRF = 23  # what x264, and with it most tools, take by themselves


def through_h264(video: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 f h w 3 as a video file keeps it; an odd side loses its last pixel, as yuv420p has it."""
    even = video[:, : video.shape[1] // 2 * 2, : video.shape[2] // 2 * 2]
    return decode_mp4(encode_mp4(even, 8.0, _CRF))


def lines(rows: Sequence[Row]) -> str:
    """``scores.jsonl``."""
    return "".join(json.dumps(row.to_dict(), ensure_ascii=False) + "\n" for row in rows)


def summary(
    rows: Sequence[Row],
    ceiling: Sequence[Row],
    todo: Sequence[Task],
    num_selftest: int,
    size_px: int,
    taught: Sequence[Scene] = (),
) -> dict[str, Any]:
    """Plain data. ``valid`` is false where the oracle cannot even read what the decoder makes of the truth,
    None if not tried; ``left_out`` are the tricks that would be the truth itself (those that act on time,
    where clips have one frame). ``flicker_floor``: the flicker of a ground that stands still, in 1/255, after
    a video codec and after the image model's own decoder. ``taught``: the scenes that checkpoints were
    trained on, where they are known; rows then say how near they are."""
    per = _by_checkpoint(rows)
    kind, headlines = todo[0].kind, todo[0].kind.headlines_of(todo[0].scene.num_frames)
    tried = self_test(todo[:num_selftest], size_px, more={H264: through_h264}) if num_selftest else {}
    tested = {name: _means(numbers) for name, numbers in tried.items()}
    tricks = {name: means for name, means in tested.items() if name in tricks_of(todo)}
    top = _means([row.numbers for row in ceiling])
    best = top.get(headlines[0])
    together = {name: kind.score_set(_scored(mine)) for name, mine in per.items()}
    wanted = _had_by_all(kind.set_headlines, list(together.values()))
    floors = {k: _best_trick(tricks, k) for k in headlines} | _set_floors(tried, todo, wanted)
    return {
        "headlines": list(headlines),
        "set_headlines": wanted,
        "kind": kind.name,
        "checkpoints": {name: _checkpoint(mine, headlines, together[name]) for name, mine in per.items()},
        "differences": _all_differences(per, headlines, together, wanted),
        "self_test": tested,
        "left_out": [name for name in CONTROLS if tested and name not in tested],
        "floors": floors | _recall_floor(todo[:num_selftest], wanted, taught, size_px),
        "flicker_floor": _flicker_floor(tested.get(H264, {}), top),
        "ceiling": top | _set_means(kind, _scored(ceiling)),
        "valid": None if best is None else best >= LOWEST_CEILING,
        "num_clips": len(todo),
        "num_selftest": min(num_selftest, len(todo)),
        "metrics": [asdict(m) for m in metrics_of(todo)],
    }


def _by_checkpoint(rows: Sequence[Row]) -> dict[str, list[Row]]:
    out: dict[str, list[Row]] = {}
    for row in rows:
        out.setdefault(row.checkpoint, []).append(row)
    return out


def _scored(rows: Sequence[Row]) -> list[tuple[Task, Numbers]]:
    return [(row.task, row.numbers) for row in rows]


def _had_by_all(
    targets: Mapping[str, float], together: Sequence[Mapping[str, Resampled]]
) -> dict[str, float]:
    """Those that every checkpoint has a number for."""
    return {key: target for key, target in targets.items() if all(key in of for of in together)}


def _all_differences(
    per: Mapping[str, Sequence[Row]],
    headlines: Sequence[str],
    together: Mapping[str, Mapping[str, Resampled]],
    wanted: Mapping[str, float],
) -> dict[str, dict[str, Any]]:
    """Of every two checkpoints the later minus the earlier, in headlines and in numbers of many clips."""
    out = {}
    for a, b in combinations(per, 2):
        of_sets = {key: asdict(together[b][key].minus(together[a][key])) for key in wanted}
        out[f"{b} - {a}"] = _differences(per[a], per[b], headlines) | of_sets
    return out


def _flicker_floor(after_codec: Numbers, after_decoder: Numbers) -> dict[str, float]:
    floors = ((H264, after_codec.get(FLICKER)), (CEILING, after_decoder.get(FLICKER)))
    return {name: floor for name, floor in floors if floor is not None}


def _checkpoint(
    rows: Sequence[Row], headlines: Sequence[str], together: Mapping[str, Resampled]
) -> dict[str, Any]:
    """``set``: what only many clips ``together`` can say."""
    return {
        "overall": _intervals(rows),
        "buckets": _buckets(rows),
        "things": _by_things(rows),
        "chance_corrected": _corrected(rows),
        "gap": _gap(rows, headlines[0]),
        "set": {key: asdict(number.interval()) for key, number in together.items()},
    }


def _best_trick(tricks: dict[str, dict[str, float | None]], key: str) -> tuple[float | None, str | None]:
    earned = {name: means.get(key) or 0.0 for name, means in tricks.items()}
    name = max(earned, key=earned.__getitem__, default=None)
    return (None, None) if name is None else (earned[name], name)


def _set_floors(
    tried: dict[str, list[Numbers]], todo: Sequence[Task], wanted: Mapping[str, float]
) -> dict[str, Any]:
    """The trick that comes nearest to what the world has, over the clips of the self-test together."""
    kind, floors = todo[0].kind, {*tricks_of(todo), *todo[0].kind.set_tricks}
    means = {}
    for name, rows in tried.items():
        if wanted and name in floors:
            means[name] = _set_means(kind, list(zip(todo[: len(rows)], rows, strict=True)))
    out: dict[str, tuple[float | None, str | None]] = {}
    for key, target in wanted.items():
        earned = {name: mean for name, of in means.items() if (mean := of.get(key)) is not None}
        best = min(earned, key=lambda name: abs(earned[name] - target), default=None)
        out[key] = (None, None) if best is None else (earned[best], best)
    return out


def _recall_floor(
    todo: Sequence[Task], wanted: Mapping[str, float], taught: Sequence[Scene], size_px: int
) -> dict[str, Any]:
    """One trick alone is about recall, repeating the training clips: what is wrong without being one of them
    is not recalled."""
    recall = todo[0].kind.recall if todo else None
    if recall is None or recall.key not in wanted:
        return {}
    means = _set_means(todo[0].kind, list(zip(todo, copied(todo, taught, size_px), strict=True)))
    return {recall.key: (means.get(recall.key), recall.trick)}


def _set_means(kind: TaskKind, rows: Sequence[tuple[Task, Numbers]]) -> dict[str, float | None]:
    return {key: number.value for key, number in kind.score_set(rows).items()} if len(rows) > 1 else {}


def ceiling_rows(store: ClipStore, todo: Sequence[Task]) -> list[Row]:
    sources = [store.path(SOURCE, task) if codec_is_known(store, todo) else None for task in todo]
    return [
        score_one((CEILING, task, path, source))
        for task, source in zip(todo, sources, strict=True)
        if (path := store.path(CEILING, task)).is_file()
    ]


def _means(rows: Sequence[Numbers]) -> dict[str, float | None]:
    """Means over the clips that ask for a number."""
    out: dict[str, float | None] = {}
    for key in rows[0] if rows else ():
        values = [v for row in rows if (v := row.get(key)) is not None]
        out[key] = float(np.mean(values)) if values else None
    return out


def _intervals(rows: Sequence[Row]) -> dict[str, Any]:
    """Clips of one prompt or subject are no independent samples."""
    groups = [row.task.group for row in rows]
    return {key: asdict(interval([row.numbers[key] for row in rows], groups)) for key in rows[0].numbers}


def _buckets(rows: Sequence[Row]) -> dict[str, Any]:
    buckets = dict.fromkeys(row.task.bucket for row in rows)
    return {
        bucket.value: _intervals([row for row in rows if row.task.bucket is bucket]) for bucket in buckets
    }


def _by_things(rows: Sequence[Row]) -> dict[str, Any]:
    """By how many things a scene has, where clips differ in it: two are harder than one, and a mean over both
    hides how much."""
    counts = sorted({len(row.task.scene.things) for row in rows})
    if len(counts) < 2:
        return {}
    return {
        counted_things(n): _intervals([row for row in rows if len(row.task.scene.things) == n])
        for n in counts
    }


def _gap(rows: Sequence[Row], key: str) -> dict[str, float] | None:
    """How much is lost on combinations that training never saw: IID minus held out, half widths of two
    independent samples added in squares."""
    seen = interval([r.numbers[key] for r in rows if r.task.bucket.value == "iid"])
    unseen = interval([r.numbers[key] for r in rows if r.task.bucket.value in HELD_OUT])
    if (
        seen.mean is None
        or seen.low is None
        or seen.high is None
        or unseen.mean is None
        or unseen.low is None
        or unseen.high is None
    ):
        return None
    mean = seen.mean - unseen.mean
    down, up = (
        math.hypot(seen.mean - seen.low, unseen.high - unseen.mean),
        math.hypot(seen.high - seen.mean, unseen.mean - unseen.low),
    )
    return {"mean": mean, "low": mean - down, "high": mean + up}


def _corrected(rows: Sequence[Row]) -> dict[str, float]:
    means = _means([row.numbers for row in rows])
    return {a: chance_corrected(a, mean) for a in CHANCE if (mean := means.get(a)) is not None}


def _differences(ours: Sequence[Row], theirs: Sequence[Row], headlines: Sequence[str]) -> dict[str, Any]:
    groups = [row.task.group for row in ours]
    return {
        k: asdict(paired_difference([r.numbers[k] for r in theirs], [r.numbers[k] for r in ours], groups))
        for k in headlines
    }
