"""Text2LIVE recolours the one thing of a still, as the toybox's CLIP judges: whether the colour that was
asked is there and the rest kept, against the same without the structure loss.

Stills with one thing that is not tiny, of the suite of edits. A small net in few steps with few views, where
the paper has 128 channels and 1000 steps.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.systems.fitting import Made, fitted, make_all, notes_in, run_module
from benchmarks.systems.plan import Figure, Panel, Workplace, column, compared
from vgen.layers.edit_layer import EditLayerSpec
from vgen.methods._rendering import Shown
from vgen.methods.text2live import Text2Live
from vgen.metrics.kinds.edit import AskedEdits, score_edited, source_clip
from vgen.metrics.suite import Kind, Suite, Task, tasks
from vgen.toybox.captions import ground_words
from vgen.toybox.edits import Edit
from vgen.toybox.scenes import Scene, Size, Thing
from vgen.training.optimisation import Decay

NUM, STEPS, LR = 16, 150, 1e-2
STRUCTURE = 2.0
SMALL = Text2Live(
    edit_layer=EditLayerSpec(num_scales=4, channels=24), num_views=4, bootstrap_steps=75, target="-"
)
CONTROL = "without the structure loss"
FOLDERS = {STRUCTURE: "clips/text2live", 0.0: "clips/text2live-loose"}
SIZE_PX = 64


def measured(work: Workplace) -> list[Figure]:
    run_module(work, "text2live", work.num(NUM), work.num(STEPS))
    rows, loose = (notes_in(work, folder) for folder in FOLDERS.values())
    told = {
        "edit_acc": "the colour that was asked is there, share of stills",
        "keep_acc": "shape and size are kept and nothing is added, share of stills",
        "bg": "the ground is kept, against what a decoder keeps",
        "oracle_psnr": "PSNR to the exact edit, dB",
    }
    return [compared(what, column(rows, key), CONTROL, column(loose, key)) for key, what in told.items()]


def picture(work: Workplace) -> list[Panel]:
    task = todo(1)[0]
    drawn = {folder: np.load(work.folder / folder / f"{task.id}.npy") for folder in FOLDERS.values()}
    ours, loose = drawn.values()
    return [("source", source_clip(task, SIZE_PX)), (target(task.scene), ours), (CONTROL, loose)]


def todo(num: int) -> list[Task]:
    """Recolourings of stills with one thing, from the suite's first ones on."""
    few = dict.fromkeys(("pair", "triple", "extrapolation", "paraphrase"), 0)
    asked = AskedEdits(edits=[Edit.RECOLOUR])
    suite = Suite(kind=Kind.EDIT, iid=12 * num + 12, num_frames=2, stride_ticks=2, edit=asked, **few)
    alone = [task for task in tasks(suite) if len(task.scene.things) == 1]
    return [task for task in alone if task.scene.things[0].size is not Size.SMALL][:num]


def target(scene: Scene) -> str:
    return f"{thing_words(scene.things[0])} on a {ground_words(scene.ground)} background"


def thing_words(thing: Thing) -> str:
    return f"a {thing.colour.value} {thing.shape.value}"


# -- the fits, in a process of their own ---------------------------------------------------------------------
def main(num: int, num_steps: int) -> None:
    for structure, folder in FOLDERS.items():

        def make(task: Task, structure: float = structure) -> Made:
            return painted(task, num_steps, structure)

        make_all(todo(num), Path(folder), make)


def painted(task: Task, num_steps: int, structure: float) -> Made:
    """The pair of frames with the layer upon it, which was fitted to them, and its scores."""
    source, before = source_clip(task, SIZE_PX), task.about.scene
    recipe = replace(
        SMALL,
        target=target(task.scene),
        layer=thing_words(task.scene.things[0]),
        place=thing_words(before.things[0]),
        structure=structure,
    )
    net = fitted(recipe, source, target(before), num_steps, Decay.EXPONENTIAL, LR)
    shown = Shown(num_frames=len(source), height_px=SIZE_PX, width_px=SIZE_PX, source=source)
    video = recipe.render(net, shown).video
    return video, dict(score_edited(video, task))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
