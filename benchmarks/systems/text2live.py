"""Text2LIVE recolours things in pairs of frames, as the toybox's CLIP judges: whether the colour that was
asked is there and the rest kept, against the same without the structure loss.

A small net in few steps, with few views a step, where the paper has 1000 steps and 128 channels.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.systems.editing import against, columns
from benchmarks.systems.fitting import Made, fitted, make_all, noted, run_module, spent
from benchmarks.systems.plan import Figure, Panel, Row, Workplace
from vgen.layers.edit_layer import EditLayerSpec
from vgen.methods._rendering import Shown
from vgen.methods.text2live import Text2Live
from vgen.metrics.kinds.edit import AskedEdits
from vgen.metrics.suite import Kind, Suite, Task, tasks
from vgen.toybox.edits import Edit
from vgen.toybox.scenes import Thing
from vgen.training.optimisation import Decay

NUM, STEPS = 32, 100
WORDS = ("suite=edit", "suite.edit.edits=[recolour]", "suite.num_frames=2", "suite.stride_ticks=2")
STRUCTURE = 2.0
SMALL = Text2Live(
    edit_layer=EditLayerSpec(num_scales=4, channels=24), num_views=4, bootstrap_steps=50, target="-"
)
CONTROL = "without the structure loss"
FOLDERS = {STRUCTURE: "clips/text2live", 0.0: "clips/text2live-loose"}


def measured(work: Workplace) -> list[Figure]:
    num, steps = work.num(NUM), work.num(STEPS)
    run_module(work, "text2live", num, steps)
    rows, loose = (_rows(work, structure) for structure in FOLDERS)
    return [figure for figure in against(rows, CONTROL, loose) if not figure.what.startswith(("TC", "WARP"))]


def _rows(work: Workplace, structure: float) -> list[Row]:
    folder = FOLDERS[structure]
    name = f"edit-{Path(folder).name}"
    return work.evaluated(name, NUM, *WORDS, f"videos={folder}", "backbone=toybox")


def editing(work: Workplace) -> dict[str, Row]:
    cost = spent(noted(work, FOLDERS[STRUCTURE], _rows(work, STRUCTURE)))
    return {"text2live, two frames, recolouring alone": columns(work, "text2live") | cost}


def picture(work: Workplace) -> list[Panel]:
    [_, loose] = work.shown("edit-text2live-loose")
    return [*work.shown("edit-text2live"), (CONTROL, loose[1])]


# -- the fits, in a process of their own ---------------------------------------------------------------------
def main(num: int, num_steps: int) -> None:
    suite = Suite(
        kind=Kind.EDIT,
        iid=num,
        pair=0,
        triple=0,
        extrapolation=0,
        paraphrase=0,
        num_frames=2,
        stride_ticks=2,
        edit=AskedEdits(edits=[Edit.RECOLOUR]),
    )
    for structure, folder in FOLDERS.items():

        def make(task: Task, structure: float = structure) -> Made:
            return painted(task, num_steps, structure)

        make_all(tasks(suite), Path(folder), make)


def painted(task: Task, num_steps: int, structure: float) -> Made:
    given, pair = task.inputs(), task.about
    assert given.source is not None  # of a suite of edits
    size_px = given.source.shape[1]
    [before], [after] = ([scene.things[i] for i in pair.changed] for scene in (pair.scene, pair.edited))
    recipe = replace(SMALL, target=task.caption, layer=_said(after), place=_said(before), structure=structure)
    net = fitted(recipe, given.source, given.source_caption, num_steps, Decay.EXPONENTIAL, 2.5e-3)
    shown = Shown(num_frames=len(given.source), height_px=size_px, width_px=size_px, source=given.source)
    return recipe.render(net, shown).video, {}


def _said(thing: Thing) -> str:
    return f"a {thing.size.value} {thing.colour.value} {thing.shape.value}"


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
