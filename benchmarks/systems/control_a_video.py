"""Control-A-Video on the toybox: edges of clips never seen, the first frame given.

The shipped ControlNet of stills lies beneath, as it is, and alone is what frames drawn apart look like. Two
trainings differ in their noise: by what has changed in the clip of the edges, or each frame its own.
"""

from __future__ import annotations

from benchmarks.systems.plan import Figure, Panel, Row, Workplace, column, compared

FEW = ("sampling.num_steps=10", "sampling.guidance=3", "suite.num_frames=8", "suite.stride_ticks=2")
GIVEN = ("suite=control", "suite.control.reference=first", *FEW)
NUM = 48


def measured(work: Workplace) -> list[Figure]:
    work.prepared("toybox_edges", "data=toybox", "num_frames=16", "fields=[edges]", num_clips=2048)
    beneath = "stack.edges.file=shipped_edges"
    work.trained("toybox_control_a_video", "toybox_control_a_video", 250, beneath)
    own = (beneath, "method.noise=iid")
    work.trained("toybox_control_a_video_iid", "toybox_control_a_video", 250, *own)
    told = ("adapter=runs/toybox_control_a_video", *GIVEN)
    held = work.evaluated("moving-edges", NUM, *told)
    free = work.evaluated("moving-edges-off", NUM, *told, "sampling.conditions.edges.scale=0")
    apart = work.evaluated("moving-edges-apart", NUM, "adapter=shipped_edges", *GIVEN)
    iid = work.evaluated("moving-edges-iid", NUM, "adapter=runs/toybox_control_a_video_iid", *GIVEN)
    return [*_edges(held, free), *_together(held, apart), *_noise(held, iid)]


def _edges(held: list[Row], free: list[Row]) -> list[Figure]:
    off = "the net at scale 0"
    return [
        compared("J of the thing's mask, edges", column(held, "j"), off, column(free, "j")),
        compared("J beyond that with another clip's edges", column(held, "ctrl_gain")),
    ]


def _together(held: list[Row], apart: list[Row]) -> list[Figure]:
    alone = "the ControlNet alone, frame by frame"
    flicker = column(held, "bgflick"), alone, column(apart, "bgflick")
    return [
        compared(
            "neighbouring frames that agree", column(held, "coherence"), alone, column(apart, "coherence")
        ),
        compared("flicker of the ground, 1/255", *flicker, less=True),
    ]


def _noise(held: list[Row], iid: list[Row]) -> list[Figure]:
    own = "noise of its own in every frame"
    rows = (
        ("flicker of the ground, residual noise, 1/255", "bgflick"),
        ("change of what moves, residual noise", "mcres"),
    )
    return [
        *(compared(what, column(held, key), own, column(iid, key), less=True) for what, key in rows),
        compared("J of the thing's mask, residual noise", column(held, "j"), own, column(iid, "j")),
    ]


def picture(work: Workplace) -> list[Panel]:
    """The first task: its edges, what is drawn along them, and by the ControlNet alone."""
    [*_, apart] = work.shown("moving-edges-apart")
    [_, _, *drawn] = work.shown("moving-edges")
    return [*drawn, ("the ControlNet alone", apart[1])]
