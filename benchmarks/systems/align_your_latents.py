"""Align your Latents on the toybox: how clips go on, and clips twice as long as any of training.

Three models: key frames (every second tick, 250 steps), prediction from one or two of them (600 steps), a
frame between every two (400 steps). Long clips are 31 ticks: 8 key frames, 16 by prediction, 31 by
interpolation. Their control draws all 16 key frames with the first model in windows of 8, and fills between
them by the same.
"""

from __future__ import annotations

import sys

from benchmarks.systems.plan import Figure, Panel, Row, Workplace, column, compared
from benchmarks.systems.stages import measured as staged
from benchmarks.systems.stages import shown

CLIPS = "data.path=data/toybox_moving"
NUM = 48
LONG = ("suite=demo", "suite.num_frames=31", "suite.stride_ticks=1")
KEYS, ON, BETWEEN = (f"toybox_aligned{part}" for part in ("", "_prediction", "_interpolation"))
STEPS = {KEYS: 250, ON: 600, BETWEEN: 400}


def measured(work: Workplace) -> list[Figure]:
    work.prepared("toybox_moving", "data=toybox", num_clips=1024)
    for name, steps in STEPS.items():
        work.trained(name, name, steps, CLIPS)
    return [*_goes_on(work), *_long(work)]


def _goes_on(work: Workplace) -> list[Figure]:
    file = f"runs/{ON}"
    rows = staged(work, "aligned-on", "goes_on", 64, num_frames=8, stride=2, file=file, given=2)
    off, what = "the second frame held", "PSNR of six frames behind two, dB"
    return [
        compared(what, column(rows, "ours"), off, column(rows, "control")),
        compared("PSNR of the truth through encoder and decoder, dB", column(rows, "limit")),
    ]


def _long(work: Workplace) -> list[Figure]:
    stages = [f"on=runs/{ON}", "on_frames=16", f"between=runs/{BETWEEN}"]
    ours = _drawn(work, "aligned-long", "keys=8", *stages)
    theirs = _drawn(work, "aligned-windows", "keys=16", "window=8", f"between=runs/{BETWEEN}")
    off, moves = "sliding windows", "motion_moving"
    return [
        compared("TC of 31 frames, prediction", column(ours, "tc"), off, column(theirs, "tc")),
        compared("motion right, of what moves", column(ours, moves), off, column(theirs, moves)),
        compared("share of frames with its things", column(ours, "perm"), off, column(theirs, "perm")),
    ]


def _drawn(work: Workplace, name: str, *words: str) -> list[Row]:
    few = [f"n={work.num(NUM)}", "num_frames=31", "stride=1", f"num_steps={work.num(12)}", "guidance=3"]
    told = [f"out=videos/{name}", f"adapter=runs/{KEYS}", *few, *words]
    work.run(f"draw-{name}", [sys.executable, "-m", "benchmarks.systems.drawn", "cascade", *told])
    return work.evaluated(name, NUM, f"videos=videos/{name}", *LONG)


def picture(work: Workplace) -> list[Panel]:
    """The first task's clip from two true frames on; and the first long one, by either way."""
    titles = {"ours": "drawn on from two frames", "truth": "the truth"}
    [(words, long)] = work.shown("aligned-long")
    [(_, windows)] = work.shown("aligned-windows")
    return [*shown(work, "aligned-on", **titles), (words, long), ("in sliding windows", windows)]
