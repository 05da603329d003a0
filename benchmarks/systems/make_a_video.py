"""Make-A-Video on the toybox: motion from clips whose captions stay unheard, and frames between frames.

300 steps of stills with captions and clips without, in turn; AnimateDiff for as many steps hears captions of
clips in all of them. Its control for motion is the same clips with their frames out of order.
"""

from __future__ import annotations

import sys

from benchmarks.systems.plan import Figure, Panel, Row, Workplace, column, compared
from benchmarks.systems.stages import measured as staged
from benchmarks.systems.stages import shown

FEW = ("suite=demo", "sampling.num_steps=10", "sampling.guidance=3")
CLIPS, STILLS = "data.path=data/toybox_moving", "data.stills=data/toybox_captioned"
SHORT = ("data.window.num_frames=8", "data.window.stride_frames=2", "optim.ema_decay=0.99")
NUM, STEPS = 48, 300


def measured(work: Workplace) -> list[Figure]:
    work.prepared("toybox_moving", "data=toybox", num_clips=1024)
    work.prepared("toybox_captioned", "data=toybox", "data.stills=true", num_clips=4096)
    work.trained("toybox_make_a_video", "toybox_make_a_video", STEPS, CLIPS, STILLS)
    work.trained("toybox_motion_short", "toybox_motion", STEPS, CLIPS, *SHORT)
    work.trained("toybox_make_a_video_interpolator", "toybox_make_a_video_interpolator", STEPS, CLIPS)
    held = work.evaluated("make-a-video", NUM, "adapter=runs/toybox_make_a_video", *FEW)
    return [*_motion(work, held), *_beside_animatediff(work, held), *_between(work)]


def _motion(work: Workplace, held: list[Row]) -> list[Figure]:
    words = ["of=evaluations/make-a-video", "out=videos/make_a_video_shuffled"]
    command = [sys.executable, "-m", "benchmarks.systems.drawn", "shuffled", *words]
    work.run("make-a-video-shuffle", command)
    mixed = work.evaluated("make-a-video-shuffled", NUM, "videos=videos/make_a_video_shuffled", *FEW)
    off, moves = "the same frames shuffled", "motion_moving"
    return [
        compared("TC, consistent and moving right", column(held, "tc"), off, column(mixed, "tc")),
        compared("motion right, of what moves", column(held, moves), off, column(mixed, moves)),
    ]


def _beside_animatediff(work: Workplace, held: list[Row]) -> list[Figure]:
    theirs = work.evaluated("animatediff-short", NUM, "adapter=runs/toybox_motion_short", *FEW)
    off = f"AnimateDiff after as many steps ({STEPS})"
    what = "EXACT: all that the caption says"
    return [compared(what, column(held, "exact"), off, column(theirs, "exact"))]


def _between(work: Workplace) -> list[Figure]:
    told = {"file": "runs/toybox_make_a_video_interpolator", "factor": 5, "words": "false"}
    rows = staged(work, "make-a-video-between", "fills", NUM, num_frames=16, stride=1, **told)
    ours, blend = column(rows, "ours"), column(rows, "control")
    return [
        compared("PSNR of four frames between two, dB", ours, "linear blending", blend),
        compared("PSNR of the truth through encoder and decoder, dB", column(rows, "limit")),
    ]


def picture(work: Workplace) -> list[Panel]:
    """The first task from its words; and frames between those that are given of its true clip."""
    titles = {"given": "every fifth frame", "control": "blended", "ours": "frames drawn between"}
    return [*work.shown("make-a-video"), *shown(work, "make-a-video-between", **titles)]
