"""Video-P2P in its fast mode on the suite of edits: each clip is taught in 30 steps first; against the source
copy."""

from __future__ import annotations

from benchmarks.systems.editing import COPY, FEW, against, columns, copied, edited
from benchmarks.systems.plan import Figure, Panel, Row, Workplace

WORDS = ("tune.num_steps=30", "tune.lr=1e-3", "method.null_text.inner_steps=0")


def measured(work: Workplace) -> list[Figure]:
    rows = edited(work, "video_p2p", "method=video_p2p", *WORDS, *FEW)
    return against(rows, "the source handed back", copied(work))


def editing(work: Workplace) -> dict[str, Row]:
    return {"video_p2p": columns(work, "video_p2p"), "the source handed back": columns(work, COPY)}


def picture(work: Workplace) -> list[Panel]:
    return work.shown("edit-video_p2p")
