"""Clips of a suite that ``vgen evaluate`` does not draw by itself, as a folder for its ``videos=``: a program
of its own.

    python -m benchmarks.systems.drawn cascade out=videos/long n=48 num_frames=31 stride=1 adapter=RUN ...
    python -m benchmarks.systems.drawn shuffled out=videos/shuffled of=evaluations/NAME
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.systems.plan import Row
from benchmarks.systems.stages import held_out
from vgen.app.cascade import CascadeStage
from vgen.app.generate import GenerateRun
from vgen.app.judging.results import load
from vgen.app.python import generate
from vgen.diffusion.frames import Sliding
from vgen.methods._sampling import SamplingOverrides
from vgen.metrics.suite import Task


def cascade(told: Row) -> dict[str, np.ndarray]:
    """Clips by task, drawn as ``vgen generate`` does: ``keys`` frames by ``adapter``, ``window`` at a time
    where that is given, to ``on_frames`` by ``on``, and between them by ``between``."""
    todo = held_out(int(told["n"]), int(told["num_frames"]), int(told["stride"]))
    on = CascadeStage(name="on", file=told.get("on", "-"), num_frames=int(told.get("on_frames", 0)))
    between = CascadeStage(name="between", file=told.get("between", "-"))
    sampling = SamplingOverrides(
        num_frames=int(told["keys"]),
        num_steps=int(told["num_steps"]),
        guidance=float(told["guidance"]),
        window=Sliding(num_frames=int(told.get("window", 0))),
    )
    with TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.txt"
        prompts.write_text("".join(f"{task.caption}\n" for task in todo), encoding="utf-8")
        clips = generate(
            GenerateRun(
                prompt_file=str(prompts),
                adapter=told["adapter"],
                cascade=[stage for stage in (on, between) if stage.name in told],
                sampling=sampling,
                batch_size=8,
            )
        )
    return {task.id: clip.video for task, clip in zip(todo, clips, strict=True)}


def shuffled(told: Row) -> dict[str, np.ndarray]:
    """An evaluation's clips, each with its frames in an order of the task's own seed."""
    [result, *_] = load(Path(told["of"]))
    folder = result.folder / "samples" / result.name
    return {task.id: _out_of_order(np.load(folder / f"{task.id}.npy"), task) for task in result.tasks()}


def _out_of_order(clip: np.ndarray, task: Task) -> np.ndarray:
    return clip[np.random.default_rng(task.seed).permutation(len(clip))]


KINDS = {"cascade": cascade, "shuffled": shuffled}


def main(given: Sequence[str]) -> None:
    what, *words = given
    told: Row = dict(word.partition("=")[::2] for word in words)
    out = Path(told["out"])
    out.mkdir(parents=True, exist_ok=True)
    for id, clip in KINDS[what](told).items():
        np.save(out / f"{id}.npy", clip, allow_pickle=False)


if __name__ == "__main__":
    main(sys.argv[1:])
