"""What the files of editing systems share: one suite of edits for all of them, the source copy that they are
measured against, and their rows in the table of editing systems.

The 32 clips are the same for all: eight recolour a thing, eight give it another shape, eight change the
ground, and eight recolour two things. Prompts say everything that is seen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from benchmarks.systems.plan import Figure, Row, Workplace, column, compared
from vgen.app.figures import EDITING
from vgen.app.judging.results import load
from vgen.metrics.control import iou
from vgen.metrics.statistics import interval
from vgen.metrics.suite import Kind, Suite, Task, tasks
from vgen.toybox.oracle import read
from vgen.toybox.renderer import render

NUM = 32
SUITE = ("suite=edit", "suite.num_frames=8", "suite.stride_ticks=2")
FEW = ("sampling.num_steps=10", "sampling.guidance=3")
EDGES = "stack.edges.file=shipped_edges"
COPY = "copy"
SIZE_PX = 64


def todo(num: int) -> list[Task]:
    """The clips that all systems edit."""
    few = dict.fromkeys(("pair", "triple", "extrapolation", "paraphrase"), 0)
    return tasks(Suite(kind=Kind.EDIT, iid=num, num_frames=8, stride_ticks=2, **few))


def edited(work: Workplace, name: str, *words: str) -> list[Row]:
    """Rows of the suite under an editing method, by the name of its evaluation."""
    return work.evaluated(f"edit-{name}", NUM, *SUITE, *words)


def copied(work: Workplace) -> list[Row]:
    """Rows of the source itself, which keeps everything and edits nothing."""
    return edited(work, COPY, "method=copy")


def against(ours: Sequence[Row], control: str, theirs: Sequence[Row]) -> list[Figure]:
    """EDIT with its parts, TC and WARP of a system beside those of a control."""
    told = {
        "edit": "EDIT, harmonic mean of asked, kept, path and ground",
        "edit_acc": "what was asked is there, share of frames",
        "keep_acc": "what was to stay is there, share of frames",
        "tc": "TC, whether things stay what and where they are",
        "warp": "WARP along the true motion, x 100",
    }
    return [
        compared(what, column(ours, key), control, column(theirs, key), less=key == "warp")
        for key, what in told.items()
    ]


def control_gains(work: Workplace, name: str) -> list[float]:
    """CTRL-GAIN of each clip: J of what is seen with the source's masks, less J with those of the next
    task."""
    [result, *_] = load(work.folder / "evaluations" / f"edit-{name}")
    todo = result.tasks()
    masks = [render(task.about.scene, SIZE_PX).masks.max(1) > 0.5 for task in todo]
    clips = [np.load(result.folder / "samples" / result.name / f"{task.id}.npy") for task in todo]
    seen = [read(clip, task.scene.stride_ticks).bodies for clip, task in zip(clips, todo, strict=True)]
    decoys = [*masks[1:], masks[0]]
    return [
        iou(bodies, own) - iou(bodies, decoy) for bodies, own, decoy in zip(seen, masks, decoys, strict=True)
    ]


def gained(work: Workplace, name: str, control: str, other: str) -> Figure:
    """CTRL-GAIN of two evaluations."""
    what = "J with the source's masks beyond that with another clip's (CTRL-GAIN)"
    return compared(what, control_gains(work, name), control, control_gains(work, other))


def columns(work: Workplace, name: str) -> Row:
    """A row of the table of editing systems: means with intervals, and what a clip costs. Seconds are the
    processor's, so that other work on the machine does not count; starting and judging do."""
    folder = work.folder / "evaluations" / f"edit-{name}"
    [result, *_] = load(folder)
    rows = list(result.rows.values())
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    cost = summary["checkpoints"][result.name]["cost"]
    note = json.loads((work.folder / "log" / f"evaluate-edit-{name}.json").read_text(encoding="utf-8"))
    means = {key: asdict(interval(column(rows, key))) for key in EDITING}
    return means | {"seconds": note["cpu_s"] / len(rows), "gib": cost["peak_gib"]}
