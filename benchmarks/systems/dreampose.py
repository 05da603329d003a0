"""DreamPose on the toybox: figures and poses never seen, each figure from one still in another pose.

It hears no words, so what it draws it has from the still and the poses. The still of somebody else, and a
black one, are what identity is measured against.
"""

from __future__ import annotations

from benchmarks.systems.plan import Figure, Panel, Row, Workplace, column, compared

PUPPETS = "data.mix={core:0,many:0,texture:0,motion:0,relation:0,puppet:1}"
FEW = ("sampling.num_steps=10", "sampling.guidance=2", "suite.num_frames=8", "suite.stride_ticks=2")
POSED = ("adapter=runs/toybox_dreampose", "suite=pose", *FEW)
NUM = 48


def measured(work: Workplace) -> list[Figure]:
    work.prepared(
        "toybox_posed", "data=toybox", "num_frames=16", "fields=[pose,reference]", PUPPETS, num_clips=2048
    )
    work.trained("toybox_dreampose", "toybox_dreampose", 500)
    held, other, black = (
        work.evaluated(f"dreamt-{still}", NUM, *POSED, f"suite.control.reference={still}")
        for still in ("own", "other", "black")
    )
    free = work.evaluated(
        "dreamt-without-poses", NUM, *POSED, "suite.control.reference=own", "sampling.guidance=0"
    )
    return [
        *_poses(held, free),
        *_identity(held, other, "the still of somebody else"),
        *_identity(held, black, "a black still"),
    ]


def _poses(held: list[Row], free: list[Row]) -> list[Figure]:
    off = "guidance by poses 0"
    return [
        compared("PCK within .05 of the canvas", column(held, "pck"), off, column(free, "pck")),
        compared("PCK beyond that with another clip's poses", column(held, "ctrl_gain")),
        compared("MPJPE, canvas widths", column(held, "mpjpe"), off, column(free, "mpjpe"), less=True),
    ]


def _identity(held: list[Row], others: list[Row], named: str) -> list[Figure]:
    rows = (("clips in the figure's clothes", "clothes"), ("clips on its ground", "ground"))
    return [compared(what, column(held, key), named, column(others, key)) for what, key in rows]


def picture(work: Workplace) -> list[Panel]:
    """The first task: the still, the poses, and what is drawn of both."""
    return work.shown("dreamt-own")
