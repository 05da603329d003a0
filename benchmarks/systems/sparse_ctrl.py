"""SparseCtrl on the toybox: clips from their first frame, and between their first and their last.

The net is trained over the shipped motion module, on clips of which any frames are given. The same net with
nothing to see is the control. Given frames are met as nearly as encoder and decoder let them.
"""

from __future__ import annotations

from benchmarks.systems.plan import Figure, Panel, Workplace, column, compared

FEW = ("sampling.num_steps=12", "sampling.guidance=3", "suite.num_frames=8", "suite.stride_ticks=2")
FRAMES = ("suite=control", "suite.control.control=frames", *FEW)
NUM, STEPS = 48, 400
OFF = "the net at scale 0"


def measured(work: Workplace) -> list[Figure]:
    work.prepared("toybox_sparse", "data=toybox", "num_frames=16", num_clips=2048)
    window = ("data.window.num_frames=8", "data.window.stride_frames=2")
    work.trained("toybox_sparse_ctrl", "toybox_sparse_ctrl", STEPS, "data.path=data/toybox_sparse", *window)
    return [*_given(work, "first", "the first frame"), *_given(work, "ends", "first and last frame")]


def _given(work: Workplace, given: str, named: str) -> list[Figure]:
    told = ("adapter=runs/toybox_sparse_ctrl", *FRAMES, f"suite.control.given={given}")
    ours = work.evaluated(f"sparse-{given}", NUM, *told)
    free = work.evaluated(f"sparse-{given}-off", NUM, *told, "sampling.conditions.frames.scale=0")
    asked = {
        "psnr_given": "PSNR of what is given, dB",
        "met": "given frames met, 0 at 15 dB, 1 at what the decoder keeps",
        "between": "things on their way in the other frames, 0 to 1",
        "held": "HELD, harmonic mean of both",
    }
    return [
        compared(f"{named} given: {what}", column(ours, key), OFF, column(free, key))
        for key, what in asked.items()
    ]


def picture(work: Workplace) -> list[Panel]:
    """The first task: what is given, and what is drawn of it; both ends likewise."""
    return [*work.shown("sparse-first"), *work.shown("sparse-ends")]
