"""What an edit keeps of its source's file: the rate, the aspect, the sound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vgen.app.edit_run import EditRun, Keep
from vgen.data.one_clip import source_facts
from vgen.data.sound import add_sound, refuse_silent


def as_source(run: EditRun) -> EditRun:
    """With the source's rate where that is kept. Raises ValueError where what is to be kept is not there."""
    if not run.keep:
        return run
    said = ",".join(one.value for one in run.keep)
    if not run.shown():
        raise ValueError(f"keep=[{said}] keeps what a file has, and none is given; give video=FILE")
    if Keep.AUDIO in run.keep:
        refuse_silent(run.shown())
    if Keep.FPS not in run.keep:
        return run
    found = source_facts(run.shown()).fps
    if not found:
        raise ValueError(f"keep=[fps] wants the rate of {run.shown()}, which says none; give fps=8")
    return replace(run, fps=found)


def frame_size(run: EditRun, size_px: int, step: int) -> tuple[int, int] | None:
    """Height and width where the aspect is kept: ``size_px`` the short side, the long one the nearest
    multiple of ``step``. None: a square."""
    if Keep.ASPECT not in run.keep:
        return None
    aspect = source_facts(run.shown()).aspect
    long_px = max(size_px, round(size_px * max(aspect, 1 / aspect) / step) * step)
    return (size_px, long_px) if aspect >= 1 else (long_px, size_px)


def put_sound(path: Path, run: EditRun) -> None:
    """The sound of the frames that were edited beneath the mp4 at ``path``, where it is kept."""
    if Keep.AUDIO in run.keep:
        # frames are cut at whole numbers of them
        add_sound(path, run.shown(), round(run.start_seconds * run.fps) / run.fps)
