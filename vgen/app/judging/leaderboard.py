"""One leaderboard, with its quality and cost, from the ``summary.json`` files of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from vgen.app.judging.results import Result, difference_of_kind, pareto, places, rank


def alike(results: Sequence[Result]) -> list[list[Result]]:
    """Results in groups that may be compared."""
    groups: list[list[Result]] = []
    for result in results:
        home = next((g for g in groups if all(difference_of_kind(one, result) is None for one in g)), None)
        if home is None:
            groups.append([result])
        else:
            home.append(result)
    return groups


def board(results: Sequence[Result]) -> dict[str, Any]:
    """Plain data: one row per result, best first, and whether nothing else is both better and cheaper."""
    first = results[0].summary
    ranked = rank(results)
    rows = [_row(result) for result in ranked]
    front = pareto(
        [
            (row["unet_calls"], row[first["headlines"][0]]["mean"] if first["headlines"] else None)
            for row in rows
        ]
    )
    return {
        "suite_name": first["suite_name"],
        "rule": first["rule"],
        "metrics": first["metrics"],
        "headlines": first["headlines"],
        "set_headlines": results[0].set_headlines,
        "num_clips": first["num_clips"],
        "rows": [
            row | {"rank": place, "on_front": on}
            for row, place, on in zip(rows, places(ranked), front, strict=True)
        ],
    }


def _row(result: Result) -> dict[str, Any]:
    numbers = result.numbers
    return {
        "label": result.label,
        "checkpoint": result.name,
        "folder": str(result.folder),
        "valid": result.summary["valid"],
        "sampler": result.summary["sampler"] if numbers["cost"]["unet_calls"] else None,
        **numbers["cost"],
        **{key: result.number(key) for key in (*result.headlines, *result.set_headlines)},
    }


def _brief(number: dict[str, Any]) -> str:
    """With half the interval's width: a leaderboard has many columns."""
    if number["mean"] is None:
        return "-"
    return f"{number['mean']:.2f}" + (
        "" if number["low"] is None else f" ±{(number['high'] - number['low']) / 2:.2f}"
    )


def table(one: dict[str, Any]) -> Table:
    out = Table(
        title=f"leaderboard: suite {one['suite_name']}, {one['num_clips']} clips each", title_justify="left"
    )
    out.add_column("", justify="right")
    out.add_column("checkpoint", style="bold")
    keys = (*one["headlines"], *one["set_headlines"])
    for key in (*keys, "UNet calls", "s per clip", "front"):
        out.add_column(key, justify="right")
    for row in one["rows"]:
        seconds = row["seconds_per_clip"]
        costs = (
            str(row["unet_calls"] or "-"),
            "-" if seconds is None else f"{seconds:.2f}",
            "*" if row["on_front"] else "",
        )
        out.add_row(str(row["rank"]), row["label"], *(_brief(row[key]) for key in keys), *costs)
    return out
