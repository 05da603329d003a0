"""Tune-A-Video on the suite of edits: each clip is taught in 30 steps first; against the source copy."""

from __future__ import annotations

from benchmarks.systems.editing import COPY, FEW, against, columns, copied, edited
from benchmarks.systems.plan import Figure, Panel, Row, Workplace

WORDS = ("tune.num_steps=30", "tune.lr=1e-3", "method.reconstruct=false")


def measured(work: Workplace) -> list[Figure]:
    rows = edited(work, "tune_a_video", "method=tune_a_video", *WORDS, *FEW)
    return against(rows, "the source handed back", copied(work))


def editing(work: Workplace) -> dict[str, Row]:
    return {"tune_a_video": columns(work, "tune_a_video"), "the source handed back": columns(work, COPY)}


def picture(work: Workplace) -> list[Panel]:
    return work.shown("edit-tune_a_video")
