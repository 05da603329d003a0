"""``vgen compare RUN RUN ...``: the paired difference of finished evaluations, clip by clip, with its interval."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vgen.app.results import Result, difference_of_kind, load, worded
from vgen.data.files import write_json
from vgen.metrics.statistics import interval, paired_difference

_KEYS = ("out", "numbers", "format")


def main() -> None:
    runs, keys = _arguments(sys.argv[1:])
    found = compare(chosen(runs), [k for k in keys.get("numbers", "").split(",") if k])
    if "out" in keys:
        write_json(Path(keys["out"]), found)
    if keys.get("format", "table") == "json":
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        for one in tables(found):
            Console().print(one)


def _arguments(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    keys = dict(a.split("=", 1) for a in arguments if "=" in a)
    unknown = [k for k in keys if k not in _KEYS]
    if unknown or keys.get("format", "table") not in ("table", "json"):
        raise ValueError(
            f"vgen compare RUN RUN ... takes out=FILE.json, numbers=NAME,NAME and format=table or json, got {' '.join(arguments)}"
        )
    return [a for a in arguments if "=" not in a], keys


def chosen(runs: Sequence[str]) -> list[Result]:
    """A run is an evaluation's folder, or ``FOLDER:CHECKPOINT``; at least two checkpoints in all."""
    picked: list[tuple[Path, str]] = []
    for run in runs:
        folder, _, name = (run, "", "") if Path(run).is_dir() else run.rpartition(":")
        folder = folder or run
        if not Path(folder).is_dir():
            raise ValueError(f"{run} is no folder; give folders that vgen evaluate made, or FOLDER:CHECKPOINT for one of several in it")
        picked.append((Path(folder), name))
    results = load(*dict.fromkeys(folder for folder, _ in picked))
    out = [r for folder, name in picked for r in results if r.folder == folder and name in ("", r.name)]
    for folder, name in picked:
        names = [r.name for r in results if r.folder == folder]
        if name and name not in names:
            raise ValueError(f"{folder} has no checkpoint {name}; it has {', '.join(names)}")
    if len(out) < 2:
        raise ValueError(f"a comparison needs at least two checkpoints, got {len(out)}; give two evaluations, or one that holds several")
    return out


def compare(results: Sequence[Result], more: Sequence[str] = ()) -> dict[str, Any]:
    """Every result after the first against the first, for headlines and ``more`` numbers, over all clips and by bucket. Plain data."""
    base = results[0]
    for other in results[1:]:
        why = difference_of_kind(base, other)
        if why is not None:
            raise ValueError(f"{base.label} and {other.label} can't be compared, {why}; evaluate both on one suite with one vgen")
    keys = list(dict.fromkeys([*base.headlines, *more]))
    unknown = [k for k in keys if k not in base.numbers["overall"]]
    if unknown:
        raise ValueError(f"numbers={','.join(unknown)} is not scored here; there are {', '.join(base.numbers['overall'])}")
    return {
        "base": base.label,
        "num_clips": len(base.rows),
        "headlines": base.headlines,
        "numbers": keys,
        "metrics": base.summary["metrics"],
        "rule": base.summary["rule"],
        "against": {other.label: {key: _paired(base, other, key) for key in keys} for other in results[1:]},
    }


def _paired(base: Result, other: Result, key: str) -> dict[str, Any]:
    buckets = list(dict.fromkeys(row["bucket"] for row in base.rows.values()))
    return {bucket: _over(base, other, key, bucket) for bucket in ("all", *buckets)}


def _over(base: Result, other: Result, key: str, bucket: str) -> dict[str, Any]:
    ids = [i for i, row in base.rows.items() if bucket in ("all", row["bucket"])]
    groups = [base.rows[i]["group"] for i in ids]
    ours, theirs = [other.rows[i][key] for i in ids], [base.rows[i][key] for i in ids]
    return {
        "base": asdict(interval(theirs, groups)),
        "other": asdict(interval(ours, groups)),
        "difference": asdict(paired_difference(ours, theirs, groups)),
        "better": sum(a > b for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None),
        "worse": sum(a < b for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None),
    }


def tables(found: dict[str, Any]) -> list[Table]:
    return [_table(found, label) for label in found["against"]]


def _table(found: dict[str, Any], label: str) -> Table:
    out = Table(title=f"{label} against {found['base']}", title_justify="left")
    for column in ("number", "bucket", "clips"):
        out.add_column(column, justify="right" if column == "clips" else "left")
    for column in (found["base"], label, "difference", "better/worse"):
        out.add_column(column, justify="right")
    for key, buckets in found["against"][label].items():
        for bucket, x in buckets.items():
            d = x["difference"]
            if d["mean"] is None:
                continue
            style = "default" if key not in found["headlines"] else "green" if d["low"] > 0 else "red" if d["high"] < 0 else "default"
            row = (
                worded(x["base"]),
                worded(x["other"]),
                f"[{style}]{worded(d, '+').replace('[', chr(92) + '[')}[/]",
                f"{x['better']}/{x['worse']}",
            )
            out.add_row(key if bucket == "all" else "", bucket, str(d["num"]), *row)
        out.add_section()
    return out
