"""MotionLoRA on the toybox: camera motions learnt from 50 clips each, on the shipped motion module.

A pan to the left and a zoom in are learnt apart. Captions do not speak of the camera. The motion module alone
is the control; both files together are asked for both motions.
"""

from __future__ import annotations

from benchmarks.systems.plan import Figure, Panel, Row, Workplace, column, compared

FEW = (
    "suite=camera",
    "suite.num_frames=8",
    "suite.stride_ticks=2",
    "sampling.num_steps=12",
    "sampling.guidance=4",
)
WINDOW = ("data.window.num_frames=8", "data.window.stride_frames=2")
NUM, STEPS, CLIPS = 48, 300, 50
ALONE = "the motion module alone"


def measured(work: Workplace) -> list[Figure]:
    for name in ("pan_left", "zoom_in"):
        learn(work, name)
    pan = work.evaluated("panned", NUM, "adapter=runs/toybox_pan_left", *FEW)
    alone = work.evaluated("panned-without", NUM, "adapter=shipped", *FEW)
    return [*_one(pan, alone), *_both(work)]


def learn(work: Workplace, move: str) -> None:
    work.prepared(f"toybox_{move}", "data=toybox", "data.seed=7", f"camera.move={move}", num_clips=CLIPS)
    told = (f"data.path=data/toybox_{move}", "optim.lr=1e-3", *WINDOW)
    work.trained(f"toybox_{move}", "toybox_motion_lora", STEPS, *told)


def _one(pan: list[Row], alone: list[Row]) -> list[Figure]:
    asked = {
        "follows": "how near the camera comes to the pan that is asked, 0 to 1",
        "pan": "pan to the right, pixels a frame (-2.29 are asked)",
        "caption_holds": "colours, shapes, count and ground as the caption says",
        "motion_held": "things go their way before the moving camera",
    }
    return [compared(what, column(pan, key), ALONE, column(alone, key)) for key, what in asked.items()]


def _both(work: Workplace) -> list[Figure]:
    files = ("stack.pan.file=runs/toybox_pan_left", "stack.zoom.file=runs/toybox_zoom_in")
    moves = "suite.camera.moves=[pan_left,zoom_in]"
    both = work.evaluated("panned-and-zoomed", NUM, "adapter=shipped", *files, *FEW, moves)
    alone = work.evaluated("panned-and-zoomed-without", NUM, "adapter=shipped", *FEW, moves)
    asked = {
        "follows": "how near the camera comes to pan and zoom together, 0 to 1",
        "zoom": "zoom of both, percent a frame",
        "pan": "pan of both, pixels a frame",
    }
    return [compared(what, column(both, key), ALONE, column(alone, key)) for key, what in asked.items()]


def picture(work: Workplace) -> list[Panel]:
    """The first task of either suite: the pan; pan and zoom; and the motion module alone."""
    [(_, still)] = work.shown("panned-without")
    [(_, both)] = work.shown("panned-and-zoomed")
    return [*work.shown("panned"), ("pan and zoom together", both), (ALONE, still)]
