"""What systems were measured at on the miniature world: ``figures.json``, which
``python -m benchmarks.systems`` writes, in words."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

BRIEF = 24
"""Letters that a line of ``vgen methods`` has for a figure."""
EDITING = {
    "edit": "EDIT",
    "edit_acc": "asked",
    "keep_acc": "kept",
    "tc": "TC",
    "warp": "warp x 100",
}
"""Columns of the table of editing systems that have intervals, and their headings."""


@cache
def measured() -> dict[str, Any]:
    """Of every system that was measured: its ``figures``, the ``commands`` and ``cpu_minutes`` of
    them, and the ``titles`` of its picture's panels."""
    return json.loads((files("vgen.app") / "figures.json").read_text(encoding="utf-8"))


def said(figure: dict[str, Any]) -> str:
    """One figure in a sentence: its mean and interval, the control's, and the difference."""
    ours = figure["ours"]
    words = f"{figure['what']}: {_spread(ours)}"
    if "theirs" in figure:
        words += f"; {figure['control']}: {_spread(figure['theirs'])}"
        words += f"; difference {_spread(figure['beyond'], sign='+')}"
    less = ", less is better" if figure.get("less") else ""
    return f"{words} (n = {ours['num']}{less})"


def _spread(number: dict[str, Any], sign: str = "") -> str:
    """A mean with its interval; three digits where it is below ten."""
    if number["mean"] is None:
        return "no value"
    if number["low"] is None:
        return _short(number["mean"], sign)
    return f"{_short(number['mean'], sign)} [{_short(number['low'], sign)}, {_short(number['high'], sign)}]"


def _short(value: float, sign: str) -> str:
    digits = 2 if abs(value) < 10 else 1
    return f"{value:{sign}.{digits}f}"


def first(name: str) -> str:
    """The figure that a table shows, with its interval and n; nothing where none was measured."""
    row = measured().get(name)
    if row is None:
        return ""
    figure = row["figures"][0]
    beside = f"; {figure['control']}: {_spread(figure['theirs'])}" if "theirs" in figure else ""
    return f"{figure['what']}: {_spread(figure['ours'])}{beside} (n = {figure['ours']['num']})"


def brief(name: str) -> str:
    """The same figure's name and mean, with its interval where both are short."""
    row = measured().get(name)
    if row is None:
        return ""
    figure = row["figures"][0]
    called = re.split(r"[,:]| of | within | beyond ", figure["what"])[0]
    whole = f"{called} {_spread(figure['ours'])}"
    return whole if len(whole) <= BRIEF else whole.split(" [")[0]


def lines(name: str) -> list[str]:
    """What the page of a method says of its figures; nothing where none were measured."""
    row = measured().get(name)
    if row is None:
        return []
    command = f"python -m benchmarks.systems out=FOLDER only={name}"
    head = f"Measured on the toybox (`{command}`, {row['cpu_minutes']:.0f} CPU minutes in all):"
    return [head, "", *(f"- {said(figure)}" for figure in row["figures"])]


def editing_table(known: dict[str, Any]) -> list[str]:
    """Markdown of the systems that edit, and of the controls that they are measured against, the best first;
    nothing where none was measured. ``known`` is as :func:`measured` gives it."""
    rows = {label: row for one in known.values() for label, row in one.get("editing", {}).items()}
    if not rows:
        return []
    order = sorted(rows, key=lambda label: -(rows[label]["edit"]["mean"] or 0.0))
    heads = ["system", "n", *EDITING.values(), "CPU s a clip", "GiB"]
    return [
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
        *(f"| {' | '.join(_cells(label, rows[label]))} |" for label in order),
    ]


def _cells(label: str, row: dict[str, Any]) -> list[str]:
    costs = [("seconds", ".1f"), ("gib", ".2f")]
    spent = ["–" if row[key] is None else f"{row[key]:{digits}}" for key, digits in costs]
    return [label, str(row["edit"]["num"]), *(_spread(row[key]) for key in EDITING), *spent]
