"""``vgen compare RUN RUN ...``: paired differences of finished evaluations with intervals, clip by clip and
of many clips together."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from vgen.app.judging.learned import better, refusal
from vgen.app.judging.results import Result, counted_things, difference_of_kind, load, worded
from vgen.app.terminal import Terminal
from vgen.data.files import write_json
from vgen.metrics.statistics import Resampled, interval, paired_difference

_KEYS = ("out", "numbers", "format")
WIDE, NARROW = 110, 10
"""Columns of a terminal that show every interval, and columns of a label where there are fewer."""


def main() -> None:
    runs, keys = _arguments(sys.argv[1:])
    found = compare(chosen(runs), [k for k in keys.get("numbers", "").split(",") if k])
    if "out" in keys:
        write_json(Path(keys["out"]), found)
    if keys.get("format", "table") == "json":
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        console = Terminal()
        for one in tables(found, console.width):
            console.print(one)


def _arguments(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    keys = dict(a.split("=", 1) for a in arguments if "=" in a)
    unknown = [k for k in keys if k not in _KEYS]
    if unknown or keys.get("format", "table") not in ("table", "json"):
        raise ValueError(
            "vgen compare RUN RUN ... takes out=FILE.json, numbers=NAME,NAME and format=table or json, got "
            f"{' '.join(arguments)}"
        )
    return [a for a in arguments if "=" not in a], keys


def chosen(runs: Sequence[str]) -> list[Result]:
    """A run is an evaluation's folder, or ``FOLDER:CHECKPOINT``; at least two checkpoints in all."""
    picked: list[tuple[Path, str]] = []
    for run in runs:
        place, _, name = (run, "", "") if Path(run).is_dir() else run.rpartition(":")
        place = place or run
        if not Path(place).is_dir():
            raise ValueError(
                f"{run} is no folder; give folders that vgen evaluate made, or FOLDER:CHECKPOINT for one of "
                "several in it"
            )
        picked.append((Path(place), name))
    results = load(*dict.fromkeys(folder for folder, _ in picked))
    out = [r for folder, name in picked for r in results if r.folder == folder and name in ("", r.name)]
    for folder, name in picked:
        names = [r.name for r in results if r.folder == folder]
        if name and name not in names:
            raise ValueError(f"{folder} has no checkpoint {name}; it has {', '.join(names)}")
    if len(out) < 2:
        raise ValueError(
            f"a comparison needs at least two checkpoints, got {len(out)}; give two evaluations, or one "
            "that holds several"
        )
    return out


def compare(results: Sequence[Result], more: Sequence[str] = ()) -> dict[str, Any]:
    """Every result after the first against the first, for headlines and ``more`` numbers, over all clips and
    by part; in ``sets`` those of many clips together, from the same resamples for both. Plain data."""
    base, others = results[0], results[1:]
    for other in others:
        _refuse_difference(base, other)
    measured = list(dict.fromkeys(name for r in results for name in r.numbers["learned"]))
    together = list(dict.fromkeys(key for r in results for key in r.numbers["set"]))
    keys = _compared(base, more, together, measured)
    asked = [k for k in together if k in more or any(k in r.set_headlines for r in results)]

    def learned(other: Result) -> dict[str, Any]:
        return {name: _learned(base, other, name, name in more) for name in measured}

    return {
        "base": base.label,
        "num_clips": len(base.rows),
        "headlines": base.headlines,
        "numbers": keys,
        "metrics": base.summary["metrics"],
        "rule": base.summary["rule"],
        "against": {other.label: {key: _paired(base, other, key) for key in keys} for other in others},
        "sets": _sets(base, others, asked, more),
        "learned": {other.label: learned(other) for other in others},
    }


def _refuse_difference(base: Result, other: Result) -> None:
    why = difference_of_kind(base, other)
    if why is not None:
        raise ValueError(
            f"{base.label} and {other.label} can't be compared, {why}; evaluate both on one suite with "
            "one vgen"
        )


def _compared(
    base: Result, more: Sequence[str], together: Sequence[str], measured: Sequence[str]
) -> list[str]:
    """Numbers that clips have one by one: the headlines and what else was asked for."""
    elsewhere = {*together, *measured}
    keys = list(dict.fromkeys([*base.headlines, *(k for k in more if k not in elsewhere)]))
    unknown = [k for k in keys if k not in base.numbers["overall"]]
    if unknown:
        known = ", ".join([*base.numbers["overall"], *together, *measured])
        raise ValueError(f"numbers={','.join(unknown)} is not scored here; there are {known}")
    return keys


def _sets(
    base: Result, others: Sequence[Result], asked: Sequence[str], more: Sequence[str]
) -> dict[str, Any]:
    """By label and number: both values, their difference and which number is ``right``; or ``refused`` with
    the reason. Raises ValueError where a number that was asked for must not be compared."""
    if not asked:
        return {other.label: {} for other in others}
    theirs, out = _together(base), {}
    for other in others:
        ours = _together(other)
        out[other.label] = {key: _apart(base, other, key, theirs.get(key), ours.get(key)) for key in asked}
        refused = [
            f"numbers={key}: {of['refused']}"
            for key, of in out[other.label].items()
            if key in more and "refused" in of
        ]
        if refused:
            raise ValueError("; ".join(refused))
    return out


def _together(result: Result) -> dict[str, Resampled]:
    """From the rows, as the evaluation made them."""
    todo = result.tasks()
    return todo[0].kind.score_set([(task, result.rows[task.id]) for task in todo])


def _apart(
    base: Result, other: Result, key: str, theirs: Resampled | None, ours: Resampled | None
) -> dict[str, Any]:
    if theirs is None or ours is None:
        lacking = [r.label for r, number in ((base, theirs), (other, ours)) if number is None]
        remedy = "score it again with corpus=SHARDS" if key == "mem" else "score it again"
        return {"refused": f"{key} was not measured for {' and '.join(lacking)}; {remedy}"}
    numbers = {"base": theirs.interval(), "other": ours.interval(), "difference": ours.minus(theirs)}
    right = next((r.set_headlines[key] for r in (base, other) if key in r.set_headlines), None)
    return {"right": right, "buckets": {"all": {name: asdict(number) for name, number in numbers.items()}}}


def _learned(base: Result, other: Result, metric: str, asked: bool) -> dict[str, Any]:
    """By bucket, with which way is ``better``; or ``refused`` with the reason. Raises ValueError where a
    metric that was asked for must not be compared."""
    why = refusal(base, other, metric)
    if why and asked:
        raise ValueError(f"numbers={metric}: {base.label} and {other.label} can't be compared: {why}")
    if why:
        return {"refused": why}
    theirs, ours = (r.numbers["learned"][metric] for r in (base, other))
    if theirs["per_clip"] is None:  # a distance between sets has no clips, and so no interval
        numbers = {
            "base": theirs["value"],
            "other": ours["value"],
            "difference": ours["value"] - theirs["value"],
        }
        whole = {k: {"mean": v, "low": None, "high": None, "num": len(base.rows)} for k, v in numbers.items()}
        return {"better": better(metric), "buckets": {"all": whole}}
    before, after = (dict(zip(base.rows, of["per_clip"], strict=True)) for of in (theirs, ours))
    return {"better": better(metric), "buckets": _by_part(base, before, after, up=better(metric) != "lower")}


def _paired(base: Result, other: Result, key: str) -> dict[str, Any]:
    theirs, ours = ({i: row[key] for i, row in r.rows.items()} for r in (base, other))
    return _by_part(base, theirs, ours)


_Values = dict[str, float | None]


def _by_part(base: Result, theirs: _Values, ours: _Values, up: bool = True) -> dict[str, Any]:
    """Values by clip. ``up``: more is better."""
    return {name: _over(base, theirs, ours, ids, up) for name, ids in _parts(base).items()}


def _parts(base: Result) -> dict[str, list[str]]:
    """Clips in all, by bucket, and by how many things they show where they differ in it (a row of an older
    evaluation does not say)."""
    buckets = dict.fromkeys(row["bucket"] for row in base.rows.values())
    out = {"all": list(base.rows)} | {bucket: _having(base, "bucket", bucket) for bucket in buckets}
    counts = sorted({row.get("things", 0) for row in base.rows.values()})
    if len(counts) > 1:
        out |= {counted_things(n): _having(base, "things", n) for n in counts}
    return out


def _having(base: Result, key: str, value: str | int) -> list[str]:
    """The clips whose rows have that value; a row that does not say has 0."""
    return [i for i, row in base.rows.items() if row.get(key, 0) == value]


def _over(base: Result, theirs: _Values, ours: _Values, ids: Sequence[str], up: bool) -> dict[str, Any]:
    groups = [base.rows[i]["group"] for i in ids]
    before, after = [theirs[i] for i in ids], [ours[i] for i in ids]
    known = [(b, a) for b, a in zip(before, after, strict=True) if a is not None and b is not None]
    rises, falls = (sum(a > b for b, a in known), sum(a < b for b, a in known))
    return {
        "base": asdict(interval(before, groups)),
        "other": asdict(interval(after, groups)),
        "difference": asdict(paired_difference(after, before, groups)),
        "better": rises if up else falls,
        "worse": falls if up else rises,
    }


def tables(found: dict[str, Any], width: int = WIDE) -> list[Table]:
    """One for each result after the first; where the terminal is narrow, intervals stand at differences
    alone."""
    return [_table(found, label, width >= WIDE) for label in found["against"]]


def _table(found: dict[str, Any], label: str, wide: bool) -> Table:
    beside = [*found["sets"][label].values(), *found["learned"][label].values()]
    refused = "\n".join(escape(x["refused"]) for x in beside if "refused" in x)
    out = Table(
        title=f"{label} against {found['base']}",
        title_justify="left",
        caption=refused,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )
    out.add_column("number", overflow="fold")
    out.add_column("n", justify="right")
    for column in (found["base"], label):
        out.add_column(column, justify="right", overflow="fold", max_width=None if wide else NARROW)
    out.add_column("difference", justify="right")
    out.add_column("better/\nworse", justify="right")
    for key, buckets in found["against"][label].items():
        _rows(out, key, buckets, 1 if key in found["headlines"] else 0, wide=wide)
    for key, of in found["sets"][label].items():
        if "refused" not in of:
            _rows(out, key, of["buckets"], _towards(of), ".3f", wide)
    for key, of in found["learned"][label].items():
        if "refused" not in of:
            _rows(out, key, of["buckets"], {"higher": 1, "lower": -1, "": 0}[of["better"]], ".4g", wide)
    return out


def _towards(of: dict[str, Any]) -> int:
    """1 where more is nearer to what is right, -1 where less is, 0 where nothing is known to be right."""
    if of["right"] is None:
        return 0
    base, other = (abs(of["buckets"]["all"][side]["mean"] - of["right"]) for side in ("base", "other"))
    grew = of["buckets"]["all"]["difference"]["mean"] > 0
    return 1 if grew == (other < base) else -1


def _rows(
    out: Table, key: str, buckets: dict[str, Any], sign: int, form: str = ".2f", wide: bool = True
) -> None:
    """``sign``: 1 where more is better, -1 where less is, 0 where neither is said; a difference beyond its
    interval is coloured by it. ``wide`` shows every interval."""
    for bucket, x in buckets.items():
        d = x["difference"]
        if d["mean"] is None:
            continue
        sure = 0 if d["low"] is None else (d["low"] > 0) - (d["high"] < 0)
        style = {1: "green", -1: "red", 0: "default"}[sure * sign]
        counts = f"{x['better']}/{x['worse']}" if "better" in x else ""
        base, other = (
            x[side] if wide else x[side] | {"low": None, "high": None} for side in ("base", "other")
        )
        words = (
            escape(worded(base, form)),
            escape(worded(other, form)),
            f"[{style}]{escape(worded(d, '+' + form))}[/]",
            counts,
        )
        out.add_row(key if bucket == "all" else f"  {bucket}", str(d["num"]), *words)
    out.add_section()
