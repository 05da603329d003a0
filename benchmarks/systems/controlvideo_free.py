"""ControlVideo, training-free, along the true edges of the clips of the suite of edits, against each frame
drawn alone along the same edges by the same ControlNet.

It sees no clip: what it is asked to keep is in the edges and in the words. The net is the shipped
one, that of ``control_net.py``.
"""

from __future__ import annotations

from benchmarks.systems.editing import EDGES, FEW, against, columns, edited, gained
from benchmarks.systems.plan import Figure, Panel, Row, Workplace

OURS, EACH = "controlvideo_free", "controlvideo_free-each"
ALONE = (
    "method.frames_read=[self]",
    "method.shared_noise=false",
    "method.image_norm_scope=frame",
    "method.smoother.count=0",
)
CONTROL = "each frame alone along the same edges"


def measured(work: Workplace) -> list[Figure]:
    told = ("method=controlvideo_free", EDGES, *FEW)
    rows = edited(work, OURS, *told)
    each = edited(work, EACH, *told, *ALONE)
    return [*against(rows, CONTROL, each), gained(work, OURS, CONTROL, EACH)]


def editing(work: Workplace) -> dict[str, Row]:
    return {"controlvideo_free": columns(work, OURS), CONTROL: columns(work, EACH)}


def picture(work: Workplace) -> list[Panel]:
    [_, alone] = work.shown(f"edit-{EACH}")
    return [*work.shown(f"edit-{OURS}"), ("each frame alone", alone[1])]
