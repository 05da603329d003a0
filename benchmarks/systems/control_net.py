"""ControlNet on the toybox: edges and poses of clips never seen, against another clip's control and none.

The nets are trained on stills, with the image model frozen, in 400 steps. A
clip is drawn with the shipped motion module beside the net.
"""

from __future__ import annotations

from benchmarks.systems.plan import Figure, Panel, Workplace, column, compared

PUPPETS = "data.mix={core:0,many:0,texture:0,motion:0,relation:0,puppet:1}"
STILLS = ("data=toybox", "data.stills=true", "num_frames=16")
FEW = ("sampling.num_steps=12", "sampling.guidance=3", "suite.num_frames=8", "suite.stride_ticks=2")
NUM = 64


def measured(work: Workplace) -> list[Figure]:
    work.prepared("toybox_structure", *STILLS, "fields=[edges]", num_clips=4096)
    work.prepared("toybox_poses", *STILLS, "fields=[pose]", PUPPETS, num_clips=4096)
    work.trained("toybox_control", "toybox_control", 400)
    pose = ("method.condition=pose", "data.path=data/toybox_poses")
    work.trained("toybox_control_pose", "toybox_control", 400, *pose)
    return [*_edges(work), *_poses(work)]


def _edges(work: Workplace) -> list[Figure]:
    told = ("adapter=shipped", "stack.edges.file=runs/toybox_control", "suite=control", *FEW)
    held = work.evaluated("control-edges", NUM, *told)
    free = work.evaluated("control-edges-off", NUM, *told, "sampling.conditions.edges.scale=0")
    off = "the net at scale 0"
    return [
        compared("J of the thing's mask, edges", column(held, "j"), off, column(free, "j")),
        compared("boundary F within 2 px, edges", column(held, "f2"), off, column(free, "f2")),
        compared("J beyond that with another clip's edges", column(held, "ctrl_gain")),
    ]


def _poses(work: Workplace) -> list[Figure]:
    told = ("adapter=shipped", "stack.pose.file=runs/toybox_control_pose", "suite=pose", *FEW)
    held = work.evaluated("control-pose", NUM, *told)
    free = work.evaluated("control-pose-off", NUM, *told, "sampling.conditions.pose.scale=0")
    off = "the net at scale 0"
    return [
        compared("PCK within .05 of the canvas, pose", column(held, "pck"), off, column(free, "pck")),
        compared("PCK beyond that with another clip's poses", column(held, "ctrl_gain")),
    ]


def picture(work: Workplace) -> list[Panel]:
    """The first task of either suite: its control, and what is drawn along it."""
    return [*work.shown("control-edges"), *work.shown("control-pose")]
