"""AnimateDiff on the toybox: the shipped motion module in the image model, against the image model alone,
which draws every frame for itself.

The shipped module learnt longer than other systems' figures allow (docs/decisions/0003).
"""

from __future__ import annotations

from benchmarks.systems.plan import Figure, Panel, Workplace, column, compared

FEW = ("suite=demo", "sampling.num_steps=12", "sampling.guidance=5")
NUM = 64


def measured(work: Workplace) -> list[Figure]:
    held = work.evaluated("animatediff", NUM, "adapter=shipped", *FEW)
    alone = work.evaluated("animatediff-untrained", NUM, "adapter=untrained", *FEW)
    off = "the image model alone"
    return [
        compared("EXACT: all that the caption says", column(held, "exact"), off, column(alone, "exact")),
        compared(
            "motion right, of what moves",
            column(held, "motion_moving"),
            off,
            column(alone, "motion_moving"),
        ),
        compared("TC, consistent and moving right", column(held, "tc"), off, column(alone, "tc")),
    ]


def picture(work: Workplace) -> list[Panel]:
    """The first task: by the image model alone, and with the module."""
    [(_, alone)] = work.shown("animatediff-untrained")
    return [("image model alone", alone), *work.shown("animatediff")]
