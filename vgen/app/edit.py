"""``vgen edit``: a clip in other words, with the clip itself beside it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.config_store import ConfigStore
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn

from vgen.app.bars import Bars
from vgen.app.config import run_hydra
from vgen.app.control_net import Structure
from vgen.app.edit_checks import (
    check_words,
    is_of_another,
    refuse_lacking,
    refuse_other_checkpoint,
    refuse_published,
)
from vgen.app.edit_keep import as_source, frame_size
from vgen.app.edit_list import edit_list
from vgen.app.edit_plan import plan
from vgen.app.edit_remarks import remark
from vgen.app.edit_run import EditRun, Extra, Keep
from vgen.app.edited_clip import EditedClip
from vgen.app.folders import claimed
from vgen.app.given_fields import fields_of_clip
from vgen.app.loading import TOYBOX, UNTRAINED, open_checkpoint
from vgen.app.long_prompts import warn_of_cut
from vgen.app.rendering import opened_to_render, recipe_of_checkpoint
from vgen.app.terminal import Terminal
from vgen.attention.processor import control_of
from vgen.backbones.image_model import ImageModel
from vgen.conditions.pictures import picture_of
from vgen.data.clip_files import to_uint8
from vgen.data.decode import Cut
from vgen.data.one_clip import read_clip
from vgen.diffusion.frames import counted
from vgen.diffusion.solvers import Solver
from vgen.methods import Recipe, catalogue, name_of
from vgen.methods._edit_session import EditSession
from vgen.methods._edit_session import Progress as Told
from vgen.methods._editing import Editing, encoded, finished, heard, in_pixels, start_noise
from vgen.methods._recipe import UNET
from vgen.methods._rendering import Rendering
from vgen.methods._wishes import Wish
from vgen.metrics.kept import unrelated_psnr
from vgen.metrics.psnr import psnr
from vgen.training.peaks import peak_memory_gb

PROMPTED = ("source", "target", "instruction", "amplify", "blend", "cross_replace_steps")
UNHEARD = (*PROMPTED, "control_net", "stack", "loras")
"""Keys of an edit that mean nothing where nothing is denoised."""


def offer() -> None:
    store = ConfigStore.instance()
    store.store(name="edit_schema", node=EditRun)
    for name, recipe in catalogue().items():
        if issubclass(recipe, (Editing, Rendering)):
            store.store(group="method", name=name, node=recipe)


def main() -> None:
    run_hydra("edit", offer, edit_files)


def edit(
    run: EditRun,
    progress: Told = lambda phase, done, total: None,
    console: Console | None = None,
    structure: Structure | None = None,
) -> EditedClip:
    """The edit as arrays; nothing is written. ``structure`` is a ControlNet in memory with its pictures, in
    place of the run's own."""
    if run.edits:
        raise ValueError(
            f"edits={run.edits} is a list, which 'vgen edit' makes one after another; here edit them one by "
            "one"
        )
    run = as_source(run)
    console, recipe = console or Console(quiet=True), run.method
    if isinstance(recipe, Rendering):
        return _rendered(run, recipe, progress)
    check_words(run, recipe)
    wish = run.wish()
    refuse_lacking(run, recipe, structure)
    assert isinstance(recipe, Editing)  # others were refused
    session, source = _session(run, recipe, wish, progress, structure)
    # refuses what cannot fit, before the first pixel is encoded
    console.print(plan(session, recipe), soft_wrap=True)
    # source and target are refused where they are longer
    warn_of_cut(session.model, [*recipe.prompts(), wish.instruction], console)
    session.latents = latents = (
        None if source is None else encoded(session.model, source, session.noise.device)
    )
    began = time.perf_counter()
    done = recipe.edit(session)
    progress("decode", 0, 1)
    video = to_uint8(finished(session.model, done)[0])
    back = None if done.reconstruction is None else _decoded(session, done.reconstruction)
    report = {
        **done.report,
        "seconds": round(time.perf_counter() - began, 2),
        "peak_gib": round(peak_memory_gb(), 2),
    }
    if source is None and recipe.along_pictures:
        source = _pictures(session, video)
    elif source is None or latents is None:
        assert back is not None  # the source is a row of the run that draws it
        source, back = back, None  # what was drawn is the source itself
    else:
        report["ceiling_psnr"] = psnr(_decoded(session, latents), source)
        source = source if done.frames is None else source[list(done.frames)]
        report |= _distances(video, source, back)
    progress("decode", 1, 1)
    if back is not None:
        report["reconstruction_psnr"] = psnr(back, source)
    mask = None if done.mask is None else _shown(done.mask, source)
    return EditedClip(video, source, back, mask, report, run)


def _rendered(run: EditRun, recipe: Rendering, progress: Told) -> EditedClip:
    """The edit of a method whose checkpoint shows the clip by itself."""
    if given := [key for key in UNHEARD if getattr(run, key)]:
        raise ValueError(
            f"method={name_of(run.method)} hears nothing of {', '.join(given)} in an edit; leave it out"
        )
    if Keep.ASPECT in run.keep:
        raise ValueError(
            f"method={name_of(run.method)} shows squares, as it was trained, got keep=[aspect]; leave it out"
        )
    began = time.perf_counter()
    checkpoint, shown = opened_to_render(run, recipe)
    progress("render", 0, 1)
    done = recipe_of_checkpoint(checkpoint).render(checkpoint.video_model, shown)
    progress("render", 1, 1)
    source = done.before if shown.source is None else shown.source
    report = {"seconds": round(time.perf_counter() - began, 2), "peak_gib": round(peak_memory_gb(), 2)}
    if shown.source is not None and not recipe.of_source:
        report["reconstruction_psnr"] = psnr(done.before, source)
    is_edit = bool(run.canonical) or recipe.of_source
    return EditedClip(done.video, source, None, None, report, run, done.pictures, is_edit)


def _distances(video: np.ndarray, source: np.ndarray, back: np.ndarray | None) -> dict[str, float]:
    """dB of the edit from the clip, and from what the inversion gives back of it; and of an unrelated clip
    from the clip."""
    out = {"edited_psnr": psnr(video, source), "unrelated_psnr": unrelated_psnr(source)}
    return out if back is None else out | {"edited_from_reconstruction_psnr": psnr(video, back)}


def _session(
    run: EditRun, recipe: Recipe, wish: Wish, progress: Told, structure: Structure | None = None
) -> tuple[EditSession, np.ndarray | None]:
    """The session, and the clip to edit as uint8 f h w 3; None where the source is to be drawn."""
    refuse_published(run.adapter)
    checkpoint = open_checkpoint(
        run.adapter or UNTRAINED,
        run.backbone or (None if run.adapter else TOYBOX),
        run.device,
        untrained=recipe,
        stack=run.stack,
        loras=run.loras,
    )
    assert isinstance(recipe, Editing)  # others were refused
    refuse_other_checkpoint(run, recipe, checkpoint)
    step = _step_px(checkpoint.model)
    cut = _cut(run, checkpoint.model)
    size = frame_size(run, cut.size_px, step)
    source = read_clip(run.shown(), cut, run.start_seconds, size) if run.shown() else None
    video_model, device = checkpoint.video_model, checkpoint.video_model.device
    if run.control_net and structure is None:
        factor = checkpoint.model.vae_factor
        structure = run.control_net.structure(cut, run.start_seconds, factor, device, size)
    keys = recipe.attention_keys().get(UNET)
    if keys and is_of_another(checkpoint, recipe):
        # an editing method on another method's checkpoint; the checkpoint's own frames otherwise
        control_of(checkpoint.unet).keys = tuple(keys)
    sampling = run.sampling.over(recipe.sampling())
    if recipe.inverts and source is not None:
        _refuse_one_way(sampling.solver)
    height, width = (side // checkpoint.model.vae_factor for side in size or (cut.size_px, cut.size_px))
    noise = start_noise(checkpoint.model, run.num_frames, (height, width), run.seed, device, recipe.start())
    of_clip = {} if source is None else heard(recipe, source, device)
    found = fields_of_clip(run.fields, video_model, run.shown(), cut, run.start_seconds, of_clip)
    if found and size is not None:
        raise ValueError(
            f"what edits listens to {', '.join(found)}, which is read as squares, got keep=[aspect]; leave "
            "aspect out"
        )
    session = EditSession(
        video_model=video_model,
        wish=wish,
        noise=noise,
        sampling=sampling,
        fields={
            **({} if structure is None else structure.run_by(recipe).beside(video_model, noise)),
            **of_clip,
            **{name: one.to(device) for name, one in found.items()},
        },
        progress=progress,
        pixels=None if source is None else in_pixels(source, device),
        frames=recipe.frame_schedule(run.window),
        seed=run.seed,
    )
    return session, source


def _step_px(model: ImageModel) -> int:
    """Pixels of which each side of a frame must be a multiple."""
    return model.vae_factor * 2 ** (len(model.unet.config["block_out_channels"]) - 1)


def _cut(run: EditRun, model: ImageModel) -> Cut:
    """How the clip is read: at the size asked for, else the image model's own."""
    size_px, step = run.size_px or model.size_px, _step_px(model)
    if size_px % step:
        raise ValueError(f"size_px must be a multiple of {step} for this image model, got {size_px}")
    return Cut(fps=run.fps, num_frames=run.num_frames, size_px=size_px)


def _refuse_one_way(solver: Solver) -> None:
    if solver is not Solver.DDIM:
        raise ValueError(
            f"an edit goes back and forth by one rule, DDIM's, got sampling.solver={solver.value}; "
            "leave it out"
        )


def _pictures(session: EditSession, like: np.ndarray) -> np.ndarray:
    """What the ControlNet was shown, uint8 f h w 3 of the size of ``like``."""
    name, field = next(iter(session.fields.items()))
    shown = picture_of(name, field, *like.shape[1:3])[0].float()
    sized = torch.nn.functional.interpolate(shown, like.shape[1:3], mode="nearest")
    return to_uint8(2 * sized - 1)


@torch.no_grad()
def _decoded(session: EditSession, latents: torch.Tensor) -> np.ndarray:
    return to_uint8(session.video_model.decode(latents)[0])


def _shown(mask: torch.Tensor, source: np.ndarray) -> np.ndarray:
    """The source where the mask is open, dimmed elsewhere."""
    factor = source.shape[1] // mask.shape[1]
    inside = mask.cpu().numpy().repeat(factor, 1).repeat(factor, 2)[..., None]
    return np.where(inside, source, source // 4).astype(np.uint8)


def edit_files(run: EditRun, _plain: dict[str, Any]) -> Path:
    """What ``vgen edit`` does: the edit, told as it goes, saved in a new folder; returns it."""
    console = Terminal()
    if run.edits:
        return edit_list(run, sys.argv[1:], offer, lambda one, out: told_edit(one, out, console), console)
    with claimed(run.out, "edit-") as out:
        told_edit(run, out, console)
    return out


def told_edit(run: EditRun, out: Path, console: Console) -> None:
    """One edit into an empty folder, told as it goes."""
    with _bars(console) as told:
        done = edit(run, told, console)
    done.write(out)
    if Extra.MASK in run.save and done.mask is None:
        console.print(
            "[yellow]no mask:[/] the edit has no words to blend (blend=\\[word]), so it may act everywhere"
        )
    remark(console, done.report)
    console.print(
        f"{counted(len(done.video))} in {done.report['seconds']:.1f} s, {done.report['peak_gib']:.2f} GiB "
        f"at the peak: {run.out or out}/"
    )


@contextmanager
def _bars(console: Console) -> Iterator[Told]:
    """One bar per phase: invert, null text, reconstruct, edit, decode."""
    columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars, tasks = Bars(*columns, console=console, unit="step", transient=False), dict[str, TaskID]()

    def told(phase: str, done: int, total: int) -> None:
        if phase not in tasks:
            bars.start()  # not before there is something to show: a refusal needs no empty line
            tasks[phase] = bars.add_task(phase, total=total)
        bars.update(tasks[phase], completed=done)

    try:
        yield told
    finally:
        if tasks:
            bars.stop()


if __name__ == "__main__":
    from vgen.app.cli import run as run_verb

    raise SystemExit(run_verb("edit"))
