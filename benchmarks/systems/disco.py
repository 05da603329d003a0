"""DisCo on the toybox: figures, grounds and poses never seen; the figure from one still in another pose, the
ground from a picture of it alone.

Three stages lie one upon the other: people and grounds, dances, frames that belong together. It hears no
words. The last stage is measured against the one before, which draws frame by frame.
"""

from __future__ import annotations

from benchmarks.systems.plan import Figure, Panel, Row, Workplace, column, compared

PUPPETS = "data.mix={core:0,many:0,texture:0,motion:0,relation:0,puppet:1}"
FEW = ("sampling.num_steps=8", "sampling.guidance=2", "suite.num_frames=8", "suite.stride_ticks=2")
OWN = "suite.control.reference=own"
NUM = 48


def measured(work: Workplace) -> list[Figure]:
    fields = "fields=[pose,reference,background]"
    work.prepared("toybox_dances", "data=toybox", "num_frames=16", fields, PUPPETS, num_clips=2048)
    work.trained("toybox_disco_attributes", "toybox_disco_attributes", 250)
    people = "stack.attributes.file=runs/toybox_disco_attributes"
    work.trained("toybox_disco", "toybox_disco", 250, people)
    work.trained("toybox_disco_temporal", "toybox_disco_temporal", 200, "stack.dance.file=runs/toybox_disco")
    told = ("adapter=runs/toybox_disco_temporal", "suite=pose", *FEW)
    held = work.evaluated("danced", NUM, *told, OWN)
    other, black = (
        work.evaluated(f"danced-{still}", NUM, *told, f"suite.control.reference={still}")
        for still in ("other", "black")
    )
    silent = ("sampling.conditions.pose.scale=0", "sampling.conditions.background.scale=0")
    free = work.evaluated("danced-off", NUM, *told, OWN, *silent)
    apart = work.evaluated("danced-apart", NUM, "adapter=runs/toybox_disco", "suite=pose", *FEW, OWN)
    return [*_controls(held, free), *_identity(held, other, black), *_together(held, apart)]


def _controls(held: list[Row], free: list[Row]) -> list[Figure]:
    off = "both nets at scale 0"
    return [
        compared("PCK within .05 of the canvas", column(held, "pck"), off, column(free, "pck")),
        compared("PCK beyond that with another clip's poses", column(held, "ctrl_gain")),
        compared(
            "clips on the ground of the background", column(held, "ground"), off, column(free, "ground")
        ),
    ]


def _identity(held: list[Row], other: list[Row], black: list[Row]) -> list[Figure]:
    what, worn = "clips in the figure's clothes", column(held, "clothes")
    return [
        compared(what, worn, "the still of somebody else", column(other, "clothes")),
        compared(what, worn, "a black still", column(black, "clothes")),
    ]


def _together(held: list[Row], apart: list[Row]) -> list[Figure]:
    before = "the stage before, frame by frame"
    rows = (("flicker of the ground, 1/255", "bgflick"), ("share of frames in other clothes", "cflip"))
    return [compared(what, column(held, key), before, column(apart, key), less=True) for what, key in rows]


def picture(work: Workplace) -> list[Panel]:
    """The first task: the figure, the ground, the poses, and what is drawn of them."""
    return work.shown("danced")
