"""MasaCtrl on the suite of edits, against the source copy.

It reads the source from the second of ten steps on, where the paper's default is the fifth of fifty."""

from __future__ import annotations

from benchmarks.systems.editing import COPY, FEW, against, columns, copied, edited
from benchmarks.systems.plan import Figure, Panel, Row, Workplace

WORDS = ("method.mutual.window.start=0.1",)


def measured(work: Workplace) -> list[Figure]:
    rows = edited(work, "masactrl", "method=masactrl", *WORDS, *FEW)
    return against(rows, "the source handed back", copied(work))


def editing(work: Workplace) -> dict[str, Row]:
    return {"masactrl": columns(work, "masactrl"), "the source handed back": columns(work, COPY)}


def picture(work: Workplace) -> list[Panel]:
    return work.shown("edit-masactrl")
