"""What ``vgen evaluate stage=score`` costs: CPU seconds and memory for clips that are there already.

    python benchmarks/scoring_app.py n=512 processes=1 shown=0

Unlike benchmarks/scoring.py this is the whole stage: files read, the oracle and every metric, overlays and
rows written, means with their intervals; ``shown`` clips are also encoded for the page (0: none). A process
of its own scores, so that its peak memory is its own. CPU seconds do not depend on what else the machine is
doing; the load stands beside the wall seconds. With several processes only the wall seconds say something, as
workers keep their CPU seconds to themselves. Prints one JSON line.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from vgen.app.evaluate import EvaluateRun, Source, Stage, evaluate
from vgen.app.judging.clip_store import ClipStore, truth
from vgen.app.judging.page import PageSettings
from vgen.metrics.suite import Suite, Task


def run(folder: str, n: int, processes: int, shown: int, stage: Stage) -> EvaluateRun:
    suite = Suite(iid=n, pair=0, triple=0, extrapolation=0, paraphrase=0)
    page = PageSettings(max_clips=shown)
    return EvaluateRun(
        adapter="x",
        suite=suite,
        out=folder,
        selftest=0,
        num_processes=processes,
        page=page,
        stage=stage,
        batch_size=16,
    )


def perfect(todo: list[Task]) -> np.ndarray:
    return np.stack([truth(task, 64) for task in todo])


def main() -> None:
    options = dict(word.split("=", 1) for word in sys.argv[1:])
    n, processes, shown = (
        int(options.get(key, value)) for key, value in (("n", 512), ("processes", 1), ("shown", 0))
    )
    source = {"x": Source({"adapter": "x"}, lambda: perfect)}
    if "score" in options:
        evaluate(run(options["score"], n, processes, shown, Stage.SCORE), Console(quiet=True), source)
        return
    with tempfile.TemporaryDirectory() as folder:
        evaluate(run(folder, n, processes, shown, Stage.SAMPLE), Console(quiet=True), source)
        assert len(list((ClipStore(Path(folder)).folder / "samples" / "x").glob("*.npy"))) == n
        load, began = os.getloadavg()[0], time.perf_counter()
        subprocess.run([sys.executable, __file__, *sys.argv[1:], f"score={folder}"], check=True)
        wall, spent = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        found = json.loads((Path(folder) / "summary.json").read_text())
    cpu = spent.ru_utime + spent.ru_stime if processes == 1 else float("nan")
    print(
        json.dumps(
            {
                "n": n,
                "processes": processes,
                "shown": shown,
                "cpu_seconds_per_clip": None if np.isnan(cpu) else round(cpu / n, 4),
                "wall_seconds": round(wall, 1),
                "load": round(load, 1),
                "peak_gb": round(spent.ru_maxrss / 2**20, 3),
                "exact": found["checkpoints"]["x"]["overall"]["exact"]["mean"],
            }
        )
    )


if __name__ == "__main__":
    main()
