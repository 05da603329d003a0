"""Metrics that look through a network, over the clips of an evaluation. What has no weights here is skipped
with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from vgen.app.judging.clip_store import ClipStore, truth
from vgen.app.judging.results import Result
from vgen.metrics.learned.clips import Clips
from vgen.metrics.learned.measure import measure
from vgen.metrics.learned.registry import catalogue, find
from vgen.metrics.learned.results import Result as Measured
from vgen.metrics.learned.results import comparable
from vgen.metrics.learned.settings import LearnedMetrics
from vgen.metrics.learned.tools import Tools
from vgen.metrics.learned.weights import Absent
from vgen.metrics.task import Task


def check(names: Sequence[str], settings: LearnedMetrics, num_clips: int, num_frames: int) -> None:
    """Refuse unknown names, too few clips for a metric, and weights that are not the declared ones, before
    anything is drawn."""
    blank = np.zeros((num_frames, 8, 8, 3), np.uint8)
    few = Clips(videos=[blank] * num_clips, references=[blank] * num_clips)
    refusals = [why for plugin in find(names) if (why := plugin.refusal(few, settings.minimums))]
    if refusals:
        raise ValueError(
            "; ".join(refusals)
            + "; give more clips with n= or frames with suite.num_frames=, or leave these metrics out"
        )
    tools = Tools(settings, few)
    for slot in {slot.name: slot for plugin in find(names) for slot in plugin.slots}.values():
        with suppress(Absent):  # said in the results
            tools.located(slot)


def measured(
    store: ClipStore,
    name: str,
    todo: Sequence[Task],
    names: Sequence[str],
    settings: LearnedMetrics,
    codec: str,
) -> dict[str, Any]:
    """Result by metric, as plain data. What a perfect answer would be stands as reference, the clip to edit
    as source."""
    videos = [store.read(name, task) for task in todo]
    size_px = videos[0].shape[1]
    inputs = [task.inputs(size_px) for task in todo]
    sources = [i.source for i in inputs if i.source is not None]
    subjects = [i.references for i in inputs if i.references is not None]
    clips = Clips(
        videos=videos,
        prompts=[task.caption for task in todo],
        sources=sources or None,
        source_prompts=[i.source_caption for i in inputs] if sources else None,
        references=[truth(task, size_px) for task in todo],
        subjects=subjects or None,
        codec=codec,
    )
    return {metric: result.to_dict() for metric, result in measure(names, clips, settings).items()}


def better(metric: str) -> str:
    """``higher`` or ``lower``, whichever is better; empty where neither is."""
    return catalogue()[metric].better


def refusal(base: Result, other: Result, metric: str) -> str | None:
    """Why a metric of two results must not be compared, or None: one lacks it, or they were measured by
    different rules."""
    lacking = [r.label for r in (base, other) if metric not in r.numbers["learned"]]
    if lacking:
        return f"{metric} was not measured for {' and '.join(lacking)}; evaluate both with metrics=[{metric}]"
    try:
        comparable(*(Measured.from_dict(r.numbers["learned"][metric]) for r in (base, other)))
    except ValueError as error:
        return str(error)
    return None


def side_by_side(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One row per metric: its name, which way is better, and for each result its value or why there is none
    that may stand beside the first."""
    names = dict.fromkeys(name for r in results for name in r.numbers["learned"])
    return [{"metric": name, "better": better(name), "cells": _cells(name, results)} for name in names]


def _cells(metric: str, results: Sequence[Result]) -> list[dict[str, Any]]:
    there = [r for r in results if r.numbers["learned"].get(metric, {}).get("value") is not None]
    cells = []
    for result in results:
        found = result.numbers["learned"].get(metric)
        why = "not measured" if found is None else found["skipped"] and f"skipped: {found['skipped']}"
        if why is None and (refused := refusal(there[0], result, metric)):
            why = f"{found['value']:.4g}, not comparable: {refused}"
        cells.append({"value": None if why else found["value"], "why": why})
    return cells


def table(results: Sequence[Result]) -> Table:
    """For the terminal."""
    out = Table(title="learned metrics", title_justify="left")
    out.add_column("metric", style="bold")
    for result in results:
        out.add_column(result.label, justify="right", overflow="fold")
    arrows = {"higher": " ↑", "lower": " ↓", "": ""}
    for row in side_by_side(results):
        cells = (escape(c["why"]) if c["why"] else f"{c['value']:.4g}" for c in row["cells"])
        out.add_row(row["metric"] + arrows[row["better"]], *cells)
    notes = noted(results)
    if notes:
        out.caption, out.caption_justify = escape("\n".join(notes)), "left"
    return out


def noted(results: Sequence[Result]) -> list[str]:
    """What a reader of the numbers should know, such as prompts that were cut; each said once."""
    found: dict[str, list[str]] = {}
    for result in results:
        for metric, measured in result.numbers["learned"].items():
            for note in measured.get("notes") or []:
                metrics = found.setdefault(note, [])
                metrics += [metric] if metric not in metrics else []
    return [f"{', '.join(metrics)}: {note}" for note, metrics in found.items()]
