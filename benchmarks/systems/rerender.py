"""Rerender A Video on the suite of edits: keys at frames 0, 4 and 7, the others made of these; against every
frame drawn from its own latent at the same strength, along the same edges, with nothing of other frames.

The net is the shipped one, that of ``control_net.py``.
"""

from __future__ import annotations

from benchmarks.systems.editing import EDGES, against, columns, edited, gained
from benchmarks.systems.plan import Figure, Panel, Row, Workplace

OURS, EACH = "rerender", "rerender-each"
FEW = ("sampling.num_steps=8", "sampling.guidance=3")
"""Every key is drawn twice."""
NEVER = "{start:1,end:1,ends:first}"
ALONE = (
    "method.interval=1",
    "method.where.from_ordinal=1000",
    *(f"method.{fusion}={NEVER}" for fusion in ("shapes", "pixels", "style")),
)
CONTROL = "image to image of each frame alone, at equal strength"


def measured(work: Workplace) -> list[Figure]:
    told = ("method=rerender", EDGES, *FEW)
    rows = edited(work, OURS, *told, "method.interval=4")
    each = edited(work, EACH, *told, *ALONE)
    return [*against(rows, CONTROL, each), gained(work, OURS, CONTROL, EACH)]


def editing(work: Workplace) -> dict[str, Row]:
    return {"rerender": columns(work, OURS), CONTROL: columns(work, EACH)}


def picture(work: Workplace) -> list[Panel]:
    [_, alone] = work.shown(f"edit-{EACH}")
    return [*work.shown(f"edit-{OURS}"), ("image to image of each frame", alone[1])]
