"""ControlVideo, one-shot, on the suite of edits: each clip is taught along its true edges first; against each
frame drawn alone along the same edges by the same ControlNet.

The net is the shipped one, the control is drawn as in
``controlvideo_free.py``.
"""

from __future__ import annotations

from benchmarks.systems.controlvideo_free import ALONE, CONTROL, EACH
from benchmarks.systems.editing import EDGES, FEW, against, columns, edited, gained
from benchmarks.systems.plan import Figure, Panel, Row, Workplace

OURS = "controlvideo_oneshot"
TAUGHT = ("tune.num_steps=25", "tune.lr=1e-3")


def measured(work: Workplace) -> list[Figure]:
    rows = edited(work, OURS, "method=controlvideo_oneshot", EDGES, *TAUGHT, *FEW)
    each = edited(work, EACH, "method=controlvideo_free", EDGES, *FEW, *ALONE)
    return [*against(rows, CONTROL, each), gained(work, OURS, CONTROL, EACH)]


def editing(work: Workplace) -> dict[str, Row]:
    return {"controlvideo_oneshot": columns(work, OURS)}


def picture(work: Workplace) -> list[Panel]:
    return work.shown(f"edit-{OURS}")
