"""What an edit needs and lacks, refused before anything is opened."""

from __future__ import annotations

from pathlib import Path

from vgen.app.control_net import Structure
from vgen.app.edit_run import PUBLISHED, EditRun
from vgen.app.loading import Checkpoint
from vgen.methods import Recipe, catalogue, name_of
from vgen.methods._editing import Editing
from vgen.methods._rendering import Rendering


def check_words(run: EditRun, recipe: Recipe) -> None:
    """Raises ValueError where the run says in an instruction what the method wants in prompts, or the other
    way round."""
    if not isinstance(recipe, Editing):
        return
    followers = [n for n, cls in catalogue().items() if issubclass(cls, Editing) and cls.instructed]
    given = [key for key in ("source", "target", "amplify", "blend") if getattr(run, key)]
    if recipe.instructed and (given or not run.instruction.strip()):
        told = f", and leave out {', '.join(given)}" if given else ""
        raise ValueError(
            f'method={name_of(recipe)} is told what to do; give instruction="make it snow"{told}'
        )
    if run.instruction and not recipe.instructed:
        raise ValueError(
            f"method={name_of(recipe)} follows no instruction, it wants source=... and target=...; methods "
            f"that follow one are {', '.join(followers)}"
        )


def refuse_lacking(run: EditRun, recipe: Recipe, structure: Structure | None) -> None:
    if not isinstance(recipe, Recipe):
        raise ValueError(
            "an edit needs a method, as EditRun(method=METHOD(), ...); those that edit are "
            f"{', '.join(editors())}"
        )
    name = name_of(recipe)
    if run.canonical or run.mask:
        raise ValueError(
            f"method={name} takes no canonical picture and no mask; those that take one are "
            f"{', '.join(renderers())}"
        )
    if not isinstance(recipe, Editing):
        raise ValueError(f"method={name} does not edit; methods that do are {', '.join(editors())}")
    if recipe.tuned and not run.adapter:
        raise ValueError(
            f"method={name} edits with a checkpoint tuned on the clip; train one with "
            f"'vgen train method={name} data=clip data.video={run.video or 'FILE'} data.prompt=...' "
            "and give adapter=RUN, or adapter=untrained to see it without"
        )
    if recipe.along_pictures and not run.control_net and structure is None and not run.stack:
        raise ValueError(
            f"method={name} draws along the pictures of a ControlNet; give control_net.path=FOLDER "
            "control_net.video=FILE, or stack.edges.file=RUN for one of vgen's own"
        )
    if recipe.instructed and not run.adapter:
        raise ValueError(
            f"method={name} edits with what it has learnt of instructions; give adapter=RUN of a training, "
            "or import a published folder with 'vgen export from=FOLDER to=vgen backbone=BASE out=NEW' and "
            "give adapter=NEW"
        )
    spared = recipe.draws_source or (recipe.along_pictures and not recipe.needs_clip)
    if not (run.shown() or spared):
        drawing = [n for n, cls in catalogue().items() if issubclass(cls, Editing) and cls.draws_source]
        raise ValueError(
            f"method={name} edits a clip that exists; give video=FILE (the source is drawn from its prompt "
            "by "
            f"method={' or '.join(drawing)})"
        )


def refuse_published(adapter: str) -> None:
    """A checkpoint as others publish it is imported once, not read in passing: what it lacks is said then."""
    path = Path(adapter).expanduser()
    if (path.is_file() and path.suffix in PUBLISHED) or (path / "unet").is_dir():
        raise ValueError(
            f"adapter={adapter} is no adapter of vgen; import it first with 'vgen export from={adapter} "
            "to=vgen backbone=FOLDER out=NEW' "
            "and give adapter=NEW"
        )


def editors() -> list[str]:
    return [name for name, recipe in catalogue().items() if issubclass(recipe, (Editing, Rendering))]


def renderers() -> list[str]:
    """Methods that take canonical pictures."""
    every = catalogue().items()
    return [name for name, recipe in every if issubclass(recipe, Rendering) and recipe.of_canonical]


def untuned() -> list[str]:
    return [name for name, cls in catalogue().items() if issubclass(cls, Editing) and not cls.tuned]


def refuse_other_checkpoint(run: EditRun, recipe: Recipe, checkpoint: Checkpoint) -> None:
    """Raises ValueError where another method's adapter can't stand for the one that is asked for."""
    assert isinstance(recipe, Editing)
    if not is_of_another(checkpoint, recipe):
        return
    if checkpoint.card is not None and recipe.tuned:
        raise ValueError(
            f"adapter={run.adapter} was made by method={checkpoint.card.recipe} and is not tuned on the "
            f"clip, as method={name_of(recipe)} asks; give a run of that method, adapter=untrained, or one "
            "of "
            f"the methods that edit on any checkpoint: {', '.join(untuned())}"
        )
    if recipe.instructed:
        raise ValueError(
            f"adapter={run.adapter} was made by method={name_of(checkpoint.recipe)} and follows no "
            f"instruction; give a run of method={name_of(recipe)}, and other adapters as stack.NAME.file=FILE"
        )


def is_of_another(checkpoint: Checkpoint, recipe: Recipe) -> bool:
    """Whether the checkpoint was made by another method."""
    return type(checkpoint.recipe) is not type(recipe)
