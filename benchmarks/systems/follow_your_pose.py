"""Follow Your Pose on the toybox: poses of figures never seen, against another clip's poses and none.

The encoder learns on stills of figures with their poses, attention over frames on clips of everything,
without poses. What attention over frames brings is measured against the encoder alone, frame by frame.
"""

from __future__ import annotations

from benchmarks.systems.plan import Figure, Panel, Row, Workplace, column, compared

PUPPETS = "data.mix={core:0,many:0,texture:0,motion:0,relation:0,puppet:1}"
STILLS = ("data=toybox", "data.stills=true", "num_frames=16")
FEW = ("sampling.num_steps=10", "sampling.guidance=3", "suite.num_frames=8", "suite.stride_ticks=2")
POSED = ("suite=pose", *FEW)
NUM = 48


def measured(work: Workplace) -> list[Figure]:
    work.prepared("toybox_poses", *STILLS, "fields=[pose]", PUPPETS, num_clips=4096)
    work.trained("toybox_pose_encoder", "toybox_pose_encoder", 400)
    work.prepared("toybox_clips", "data=toybox", "num_frames=16", num_clips=2048)
    without = ("data.path=data/toybox_clips", "data.window.stride_frames=2")
    work.trained("toybox_pose_motion", "toybox_pose_motion", 350, *without)
    both = ("adapter=runs/toybox_pose_motion", "stack.pose.file=runs/toybox_pose_encoder", *POSED)
    held = work.evaluated("followed-poses", NUM, *both)
    free = work.evaluated("followed-poses-off", NUM, *both, "sampling.conditions.pose.scale=0")
    alone = work.evaluated("followed-poses-apart", NUM, "adapter=runs/toybox_pose_encoder", *POSED)
    return [*_poses(held, free), *_together(held, alone)]


def _poses(held: list[Row], free: list[Row]) -> list[Figure]:
    off = "without poses"
    return [
        compared("PCK within .05 of the canvas", column(held, "pck"), off, column(free, "pck")),
        compared("PCK beyond that with another clip's poses", column(held, "ctrl_gain")),
        compared("MPJPE, canvas widths", column(held, "mpjpe"), off, column(free, "mpjpe"), less=True),
        compared("LAG, frames either way", _late(held), less=True),
    ]


def _together(held: list[Row], alone: list[Row]) -> list[Figure]:
    apart = "the encoder alone, frame by frame"
    rows = (("flicker of the ground, 1/255", "bgflick"), ("share of frames in other clothes", "cflip"))
    return [compared(what, column(held, key), apart, column(alone, key), less=True) for what, key in rows]


def _late(rows: list[Row]) -> list[float | None]:
    return [None if lag is None else abs(lag) for lag in column(rows, "lag")]


def picture(work: Workplace) -> list[Panel]:
    """The first task: its poses, what is drawn along them, and what without motion."""
    [_, apart] = work.shown("followed-poses-apart")
    return [*work.shown("followed-poses"), ("the encoder alone", apart[1])]
