"""FateZero on the suite of edits, on the image model as it is, against the source copy."""

from __future__ import annotations

from benchmarks.systems.editing import COPY, FEW, against, columns, copied, edited
from benchmarks.systems.plan import Figure, Panel, Row, Workplace

WORDS = ("method.reconstruct=false",)


def measured(work: Workplace) -> list[Figure]:
    rows = edited(work, "fatezero", "method=fatezero", *WORDS, *FEW)
    return against(rows, "the source handed back", copied(work))


def editing(work: Workplace) -> dict[str, Row]:
    return {"fatezero": columns(work, "fatezero"), "the source handed back": columns(work, COPY)}


def picture(work: Workplace) -> list[Panel]:
    return work.shown("edit-fatezero")
