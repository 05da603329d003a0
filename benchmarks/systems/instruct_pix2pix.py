"""InstructPix2Pix on the toybox, stills: held-out edits after training on exact pairs, and on pairs that the
image model drew by Prompt-to-Prompt, against a copy of the source.

EDIT is the harmonic mean of what was changed, what was kept, where it stands and the ground; a copy of the
source keeps all and changes nothing.
"""

from __future__ import annotations

from benchmarks.systems.plan import Figure, Panel, Workplace, column, compared

SUITE = ("suite=edit", "suite.num_frames=1")
NUM = 64
STEPS, FEW_STEPS = 1600, 400
"""With exact pairs, and with the few that are drawn, which longer training learns by heart."""


def measured(work: Workplace) -> list[Figure]:
    exact = ("data=toybox_edits", "data.stills=true", f"data.num_pairs={work.num(4096, 24)}", "data.seed=11")
    work.prepared("toybox_edits", *exact)
    work.trained("toybox_instruct", "toybox_instruct", STEPS)
    few = (f"data.num_pairs={work.num(200, 8)}", f"data.num_samples={work.num(4)}")
    steps = f"data.num_steps={work.num(20)}"
    unfiltered = () if not work.short else ("data.filter.text=-1", "data.filter.direction=-1")
    work.prepared("toybox_pairs", "data=pairs", *few, steps, *unfiltered, "max_reject_share=1")
    few_held_out = ("data.path=data/toybox_pairs", "data.val_clips=8")
    work.trained("toybox_instruct_drawn", "toybox_instruct", FEW_STEPS, *few_held_out)
    copy = work.evaluated("instruct-copy", NUM, "method=copy", *SUITE)
    told = ("method=instruct_pix2pix", "sampling.num_steps=20", "sampling.guidance=5", *SUITE)
    ours = work.evaluated("instruct", NUM, "adapter=runs/toybox_instruct", *told)
    drawn = work.evaluated("instruct-drawn", NUM, "adapter=runs/toybox_instruct_drawn", *told)
    source = "a copy of the source"
    return [
        compared("EDIT, exact pairs", column(ours, "edit"), source, column(copy, "edit")),
        compared("share that shows the edit, exact pairs", column(ours, "edit_acc")),
        compared("share that keeps the rest, exact pairs", column(ours, "keep_acc")),
        compared("EDIT, pairs by its own generator", column(drawn, "edit"), source, column(copy, "edit")),
    ]


def picture(work: Workplace) -> list[Panel]:
    """The first edit of the suite, after training on exact pairs."""
    return work.shown("instruct")
