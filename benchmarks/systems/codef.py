"""CoDeF on the clips of the suite of edits: how well a clip comes back, against its first frame brought along
the true motion; and Prompt-to-Prompt's edit of the canonical picture, against the same edit made frame by
frame.

Small fields in few steps, so that a fit takes some seconds of one core: see ``SMALL`` and ``STEPS``.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.systems.editing import FEW, NUM, SUITE, against, columns, edited, todo
from benchmarks.systems.fitting import Made, fitted, make_all, noted, run_module, spent
from benchmarks.systems.plan import Figure, Panel, Row, Workplace, column, compared
from vgen.app.judging.suite_edits import Editor
from vgen.app.loading import UNTRAINED, open_checkpoint
from vgen.backbones.flow import warped
from vgen.diffusion.inversion import NullText
from vgen.layers.canonical_field import VideoFieldSpec
from vgen.layers.hash_grid import HashGridSpec
from vgen.methods._rendering import Shown
from vgen.methods._sampling import SamplingOverrides
from vgen.methods.codef import CoDeF
from vgen.methods.prompt_to_prompt import PromptToPrompt
from vgen.metrics.psnr import psnr
from vgen.metrics.suite import Task
from vgen.toybox.renderer import Rendered, render
from vgen.training.optimisation import Decay

SMALL = VideoFieldSpec(
    deformation=HashGridSpec(num_levels=6, log2_entries=13, base_resolution=4),
    canonical=HashGridSpec(num_levels=6, log2_entries=13, base_resolution=8, growth=1.5),
    width=32,
    deformation_layers=2,
)
STEPS = 250
LR = 1e-2
SIZE_PX = 64
CLIPS = "clips/codef"
CONTROL = "the same edit made frame by frame"


def measured(work: Workplace) -> list[Figure]:
    num, steps = work.num(NUM), work.num(STEPS)
    run_module(work, "codef", num, steps)
    rows = edited(work, "codef", f"videos={CLIPS}", "backbone=toybox")
    alone = edited(
        work, "prompt_to_prompt", "method=prompt_to_prompt", "method.null_text.inner_steps=0", *FEW
    )
    fits = noted(work, CLIPS, rows)
    control = "the first frame brought along the true motion"
    back = compared(
        "PSNR of the clip as it comes back, dB", column(fits, "psnr"), control, column(fits, "carried_psnr")
    )
    return [back, *against(rows, CONTROL, alone)]


def editing(work: Workplace) -> dict[str, Row]:
    rows = work.evaluated("edit-codef", NUM, *SUITE, f"videos={CLIPS}", "backbone=toybox")
    cost = spent(noted(work, CLIPS, rows))
    return {"codef, its picture edited by prompt_to_prompt": columns(work, "codef") | cost}


def picture(work: Workplace) -> list[Panel]:
    return work.shown("edit-codef")


# -- the fits, in a process of their own ---------------------------------------------------------------------
def main(num: int, num_steps: int) -> None:
    painter = Editor(
        recipe=PromptToPrompt(null_text=NullText(inner_steps=0)),
        sampling=SamplingOverrides(num_steps=10, guidance=3.0),
        open=lambda: open_checkpoint(UNTRAINED, "toybox", "cpu", untrained=PromptToPrompt()),
    )

    def make(task: Task) -> Made:
        return edited_by_its_picture(task, num_steps, painter)

    make_all(todo(num), Path(CLIPS), make)


def edited_by_its_picture(task: Task, num_steps: int, painter: Editor) -> Made:
    """The clip with its canonical picture edited, and PSNR of what the fit gives back without the edit."""
    truth = render(task.about.scene, SIZE_PX)
    recipe = CoDeF(video_field=SMALL, margin=0.0)
    video_model = fitted(recipe, truth.video, "", num_steps, Decay.HALVES, LR)
    whole = Shown(num_frames=len(truth.video), height_px=SIZE_PX, width_px=SIZE_PX)
    plain = recipe.render(video_model, whole)
    [canonical] = plain.pictures.values()
    painted = painter.of_clip(task, canonical[None])
    shown = recipe.render(video_model, replace(whole, canonical=[painted[0]]))
    found = {
        "psnr": psnr(plain.before, truth.video),
        "carried_psnr": psnr(carried(truth), truth.video),
    }
    return shown.video, found


def carried(truth: Rendered) -> np.ndarray:
    """The first frame brought to every frame by the true motion: nothing is known of what it hides."""
    first = truth.video[0].astype(np.float64)
    frames = [first]
    for k in range(1, len(truth.video)):
        pair = replace(
            truth, video=truth.video[[k, 0]], masks=truth.masks[[k, 0]], states=truth.states[:, [k, 0]]
        )
        frames.append(warped(first, pair.flow()[0]))
    return np.stack(frames).round().astype(np.uint8)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
