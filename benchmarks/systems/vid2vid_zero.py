"""vid2vid-zero on the suite of edits, with one step of null-text optimisation, against the source copy."""

from __future__ import annotations

from benchmarks.systems.editing import COPY, FEW, against, columns, copied, edited
from benchmarks.systems.plan import Figure, Panel, Row, Workplace

WORDS: tuple[str, ...] = ()


def measured(work: Workplace) -> list[Figure]:
    rows = edited(work, "vid2vid_zero", "method=vid2vid_zero", *WORDS, *FEW)
    return against(rows, "the source handed back", copied(work))


def editing(work: Workplace) -> dict[str, Row]:
    return {"vid2vid_zero": columns(work, "vid2vid_zero"), "the source handed back": columns(work, COPY)}


def picture(work: Workplace) -> list[Panel]:
    return work.shown("edit-vid2vid_zero")
