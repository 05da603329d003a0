"""Edits by checkpoints that show a clip by themselves: what they are asked for, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import ImageOps, UnidentifiedImageError

from vgen.app.loading import UNTRAINED, Checkpoint, open_checkpoint
from vgen.data.bounded import opened
from vgen.data.decode import Cut
from vgen.data.given import read_field
from vgen.data.one_clip import as_rgb, read_clip
from vgen.methods import Recipe, name_of
from vgen.methods._rendering import Rendering, Shown

if TYPE_CHECKING:
    from vgen.app.edit import EditRun


def opened_to_render(run: EditRun, recipe: Rendering) -> tuple[Checkpoint, Shown]:
    """The checkpoint, and what it is to show. Raises ValueError where the run asks for what it can't give."""
    _refuse_lacking(run, recipe)
    checkpoint = open_checkpoint(run.adapter, run.backbone, run.device)
    _refuse_another(run, checkpoint)
    trained = recipe_of_checkpoint(checkpoint)
    _refuse_masks(run, trained)
    assert checkpoint.card is not None  # of an adapter that was opened
    facts = checkpoint.card.summary
    side = run.size_px or facts["height_px"]
    num_frames = run.num_frames if trained.of_source else facts["num_frames"]
    cut = Cut(fps=run.fps, num_frames=num_frames, size_px=side)
    shown = Shown(
        num_frames=num_frames,
        height_px=side,
        width_px=side,
        source=read_clip(run.shown(), cut, run.start_seconds) if run.shown() else None,
        mask=read_field("mask", Path(run.mask).expanduser(), cut, run.start_seconds) if run.mask else None,
        canonical=_pictures(run.canonical) if run.canonical else (),
    )
    return checkpoint, shown


def recipe_of_checkpoint(checkpoint: Checkpoint) -> Rendering:
    """The method with the knobs of its training."""
    return cast(Rendering, checkpoint.recipe)


def _refuse_lacking(run: EditRun, recipe: Rendering) -> None:
    """Raises ValueError for what is missing, before anything is opened."""
    name = name_of(cast(Recipe, recipe))
    shown = "data.video=FILE" if recipe.of_canonical else "data.video=FILE data.prompt=..."
    if not run.adapter or run.adapter == UNTRAINED:
        raise ValueError(
            f"method={name} shows what it has learnt, and nothing is learnt yet; train first with 'vgen "
            f"train method={name} data=clip {shown}' and give adapter=RUN"
        )
    if run.canonical and not recipe.of_canonical:
        raise ValueError(f"method={name} takes no canonical picture; give image=FILE or video=FILE")
    if recipe.of_source and not run.shown():
        raise ValueError(f"method={name} paints upon a picture or a clip; give image=FILE or video=FILE")


def _refuse_another(run: EditRun, checkpoint: Checkpoint) -> None:
    """Raises ValueError where the adapter is not what the run's method and knobs say."""
    trained = checkpoint.recipe
    if type(trained) is not type(run.method):
        raise ValueError(
            f"adapter={run.adapter} was made by method={name_of(trained)}, and method={name_of(run.method)} "
            "shows its own alone; give a run of that method"
        )
    if run.method not in (trained, type(trained)()):
        raise ValueError(
            f"adapter={run.adapter} was trained with other knobs than method.* says here; leave them out, "
            "they are read from its card"
        )


def _refuse_masks(run: EditRun, recipe: Rendering) -> None:
    """Raises ValueError where groups and masks do not go together."""
    if recipe.groups() > 1 and not run.mask:
        raise ValueError(
            f"adapter={run.adapter} has {recipe.groups()} groups, and nothing says where they are; give "
            "mask=FILE, as in its training"
        )
    if run.mask and recipe.groups() == 1:
        raise ValueError(
            f"adapter={run.adapter} has one group, which needs no mask; leave mask={run.mask} out"
        )


def _pictures(canonical: str) -> list[np.ndarray]:
    """A picture, or those of a folder that are called canonical, in the order of their names."""
    path = Path(canonical).expanduser()
    found = sorted(path.glob("canonical*.png"), key=lambda file: (len(file.name), file.name))
    files = found if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise ValueError(
            f"canonical={canonical} is no picture and no folder that holds canonical.png; give the edited "
            "picture"
        )
    return [_picture(file) for file in files]


def _picture(path: Path) -> np.ndarray:
    """uint8 h w 3, whole and at its own size."""
    try:
        with opened(path) as file:
            return np.asarray(as_rgb(ImageOps.exif_transpose(file)))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"canonical={path} is no picture that can be read; give a PNG") from error
