"""How long the oracle takes to score clips from raw uint8, and how much memory.

    python benchmarks/scoring.py n=512 processes=2          # kind=text | edit | control | pose | identity |
    diversity

The budget is .15 s per clip of 16 frames and core, 512 clips in a minute on two cores, less than 1 GB. Clips
are drawn beforehand; the numbers of the first eight are compared between one process and several before
anything is timed. CPU seconds do not depend on what else the machine is doing, wall seconds do: the load at
the start stands beside them. Prints one JSON line.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import sys
import time

import numpy as np

from vgen.metrics.kinds.control import AskedControl, Control
from vgen.metrics.metric import Numbers
from vgen.metrics.scoring import score
from vgen.metrics.suite import Kind, Suite, Task, tasks
from vgen.toybox.renderer import render

BUDGET_SECONDS, BUDGET_GB = 0.15, 1.0
Item = tuple[Task, np.ndarray]


def scored(item: Item) -> tuple[Numbers, float]:
    """One row and the CPU seconds that it took."""
    began = time.process_time()
    numbers = score(item[1], item[0])
    return numbers, time.process_time() - began


def suite(kind: str, n: int) -> Suite:
    counts = {"iid": n, "pair": 0, "triple": 0, "extrapolation": 0, "paraphrase": 0}
    if kind == "pose":
        return Suite(**counts, kind=Kind.CONTROL, control=AskedControl(control=Control.POSE))
    return Suite(**counts, kind=Kind(kind))


def peak_gb() -> float:
    """Largest resident set of this process or of any that it started, GB."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(w).ru_maxrss for w in who) / 2**20


def main() -> None:
    options = dict(word.split("=", 1) for word in sys.argv[1:])
    kind, n, processes = (
        options.get("kind", "text"),
        int(options.get("n", 512)),
        int(options.get("processes", 2)),
    )
    items = [(task, render(task.scene).video) for task in tasks(suite(kind, n))]
    drawn_gb = peak_gb()
    alone = [scored(item)[0] for item in items[:8]]  # also fills the templates that a process keeps
    load = os.getloadavg()[0]
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        began = time.perf_counter()
        rows = pool.map(scored, items, chunksize=16)
        wall = time.perf_counter() - began
    assert [row for row, _ in rows[:8]] == alone, "rows depend on the process that scores them"
    seconds = np.array([s for _, s in rows])
    print(
        json.dumps(
            {
                "kind": kind,
                "clips": n,
                "frames": len(items[0][1]),
                "processes": processes,
                "wall_s": round(wall, 1),
                "cpu_s_per_clip": {
                    q: round(float(np.quantile(seconds, v)), 4) for q, v in (("median", 0.5), ("p95", 0.95))
                },
                "cpu_s_all": round(float(seconds.sum()), 1),
                "peak_gb": round(peak_gb(), 3),
                "before_scoring_gb": round(drawn_gb, 3),
                "within_budget": bool(seconds.mean() <= BUDGET_SECONDS and peak_gb() < BUDGET_GB),
                "load_before": round(load, 1),
                "cores": os.cpu_count(),
                "machine": platform.processor() or platform.machine(),
                "python": platform.python_version(),
            }
        )
    )


if __name__ == "__main__":
    main()
