"""What is said of an edit once it is done: how well the clip was given back, and whether anything was changed
or kept."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from vgen.metrics.kept import changed_nothing, kept_nothing

POOR_DB = 6.0
"""A reconstruction this much below the decoder's own is worth a warning."""
POOR_CEILING_DB = 18.0
"""So is a decoder that gives no more than this of the source itself: the image model can't show the clip at
all."""


def remark(console: Console, report: dict[str, Any]) -> None:
    """Lines on the report of an edit of a clip; nothing where the source was drawn."""
    ceiling = report.get("ceiling_psnr")
    if ceiling is None:
        if "reconstruction_psnr" in report:
            console.print(f"reconstruction {report['reconstruction_psnr']:.1f} dB")
        return
    if "edited_psnr" in report:
        _of_edit(console, report, ceiling)
    if "reconstruction_psnr" in report:
        _of_reconstruction(console, report["reconstruction_psnr"], ceiling)


def _of_edit(console: Console, report: dict[str, Any], ceiling: float) -> None:
    from_source, unrelated = report["edited_psnr"], report["unrelated_psnr"]
    nearest = max(from_source, report.get("edited_from_reconstruction_psnr", from_source))
    if changed_nothing(nearest, ceiling):
        console.print(
            f"[yellow]the edit changed nothing[/]: it is {nearest:.1f} dB from the clip or its "
            f"reconstruction, as near as the decoder alone comes ({ceiling:.1f} dB); try a higher "
            "sampling.guidance, or fewer steps with the source's attention ('vgen show METHOD' names them)",
            soft_wrap=True,
        )
    elif kept_nothing(from_source, unrelated, ceiling):
        console.print(
            f"[yellow]the edit kept nothing of the clip[/]: it is {from_source:.1f} dB from it, and a clip "
            f"with the same colours elsewhere {unrelated:.1f} dB; try a lower sampling.guidance, a source "
            "prompt that says all that is seen, or more sampling.num_steps",
            soft_wrap=True,
        )


def _of_reconstruction(console: Console, found: float, ceiling: float) -> None:
    console.print(f"reconstruction {found:.1f} dB, the decoder alone {ceiling:.1f} dB")
    if ceiling < POOR_CEILING_DB:
        console.print(
            "[yellow]this image model can't show the clip[/]: its encoder and decoder alone give "
            f"{ceiling:.1f} dB of the source, "
            f"and under {POOR_CEILING_DB:g} dB little of it is left; give a backbone that knows such "
            "pictures, or a larger size_px",
            soft_wrap=True,
        )
    if found < ceiling - POOR_DB:
        console.print(
            f"[yellow]the source is not given back well[/] ({found:.1f} dB against {ceiling:.1f} dB): "
            "the edit will lose what the inversion lost; "
            "try more sampling.num_steps, method.fixed_point_steps=2, or a source prompt that says what is "
            "seen",
            soft_wrap=True,
        )
