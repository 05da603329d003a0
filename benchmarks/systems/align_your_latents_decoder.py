"""Align your Latents' decoder on the toybox: how much the ground flickers in what it makes of true latents,
and what the image model's own makes of the same."""

from __future__ import annotations

from benchmarks.systems.plan import Figure, Panel, Workplace, column, compared
from benchmarks.systems.stages import measured as staged
from benchmarks.systems.stages import shown

NUM, STEPS = 48, 200
NAME = "toybox_aligned_decoder"


def measured(work: Workplace) -> list[Figure]:
    work.prepared("toybox_moving", "data=toybox", num_clips=1024)
    work.trained(NAME, NAME, STEPS, "data.path=data/toybox_moving")
    file = f"runs/{NAME}"
    rows = staged(work, "aligned-decoder", "decodes", NUM, num_frames=8, stride=1, file=file)
    off, flicker = "the image model's own", "flicker of the ground, 1/255"
    ours, theirs = column(rows, "ours_psnr"), column(rows, "control_psnr")
    return [
        compared(flicker, column(rows, "ours"), off, column(rows, "control"), less=True),
        compared("PSNR to the truth, dB", ours, off, theirs),
    ]


def picture(work: Workplace) -> list[Panel]:
    """The first task's latents by both decoders."""
    titles = {"control": "decoded frame by frame", "ours": "decoded as a clip", "truth": "the truth"}
    return shown(work, "aligned-decoder", **titles)
