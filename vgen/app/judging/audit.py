"""The second reader over an evaluation: does a reader that shares no code with the oracle see the same in its
clips?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from vgen.app.judging.clip_store import ClipStore, truth
from vgen.metrics.second_reader import LEAST_ON_CLIPS, LEAST_ON_TRUTH, Agreement, agreement, can_audit
from vgen.metrics.suite import Task

TRUTH = "truth"


def audited(store: ClipStore, names: Sequence[str], todo: Sequence[Task], size_px: int) -> dict[str, Any]:
    """Plain data by checkpoint, and for the truth; nothing where no task is one that the second reader
    knows."""
    known = [task for task in todo if can_audit(task)]
    if not known:
        return {}
    found = {TRUTH: _plain(agreement((task, truth(task, size_px)) for task in known), LEAST_ON_TRUTH)}
    return found | {
        name: _plain(agreement((task, store.read(name, task)) for task in known), LEAST_ON_CLIPS)
        for name in names
    }


def _plain(one: Agreement, least: float) -> dict[str, Any]:
    apart = {id: [f"{d.what}: {d.first} | {d.second}" for d in found] for id, found in one.apart.items()}
    return {"share": asdict(one.share), "verdict": asdict(one.verdict), "least": least, "apart": apart}
