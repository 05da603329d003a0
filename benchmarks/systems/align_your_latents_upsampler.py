"""Align your Latents' upsampler on the toybox: clips of 64 px from the same in 16."""

from __future__ import annotations

from benchmarks.systems.plan import Figure, Panel, Workplace, column, compared
from benchmarks.systems.stages import measured as staged
from benchmarks.systems.stages import shown

NUM, STEPS, FACTOR = 48, 300, 4
NAME = "toybox_aligned_upsampler"


def measured(work: Workplace) -> list[Figure]:
    work.prepared("toybox_moving", "data=toybox", num_clips=1024)
    work.trained(NAME, NAME, STEPS, "data.path=data/toybox_moving")
    told = {"file": f"runs/{NAME}", "factor": FACTOR}
    rows = staged(work, "aligned-larger", "enlarges", NUM, num_frames=8, stride=1, **told)
    ours, seen, small = column(rows, "ours"), column(rows, "control"), column(rows, "pixels")
    what = "PSNR of clips with sides four times as long, dB"
    return [
        compared(what, ours, "bicubic, of what the same latents show", seen),
        compared(what, ours, "bicubic, of the 16 px that they were made of", small),
        compared("PSNR of the truth through encoder and decoder, dB", column(rows, "limit")),
    ]


def picture(work: Workplace) -> list[Panel]:
    """The first task's true clip in 16 px, enlarged by either."""
    titles = {
        "given": "16 px, as decoded",
        "control": "bicubic",
        "ours": "drawn at 64 px",
        "truth": "the truth",
    }
    return shown(work, "aligned-larger", **titles)
