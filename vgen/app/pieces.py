"""What ``vgen export`` writes: an adapter of ours, or a file of theirs, with the recipe it belongs to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from vgen.app.loading import load_backbone
from vgen.app.plain import from_plain
from vgen.app.refusals import refusal
from vgen.app.stacks import adapter_path, recipe_of
from vgen.backbones.image_model import ImageModel
from vgen.backbones.video_unet import VideoUNet
from vgen.formats.adapter import Card, load_adapter, plain, put, refuse_no_numbers, unet_fingerprint
from vgen.formats.foreign import Foreign, Imported, Learnt, Source
from vgen.methods import Recipe, assemble, catalogue, name_of


@dataclass(slots=True)
class Piece:
    """An adapter's tensors, the recipe they belong to, and their image model. ``read_as`` is the format that
    they came in."""

    tensors: dict[str, Tensor]
    recipe: Recipe
    model: ImageModel | None
    card: Card
    notes: list[str] = field(default_factory=list)
    read_as: Foreign | None = None

    def learnt(self) -> Learnt:
        assert self.model is not None  # a copy in vgen's own format alone needs none
        knobs = knobs_of(self.recipe)
        return Learnt(
            tensors=self.tensors,
            knobs=knobs,
            card=replace(self.card, knobs=knobs),  # an older card has knobs that are none any more
            model=self.model,
            assembled=partial(assembled, type(self.recipe), self.model),
        )


def knobs_of(recipe: Recipe) -> dict[str, Any]:
    return plain(asdict(recipe))


@contextmanager
def assembled(
    method: type[Recipe], model: ImageModel, knobs: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Iterator[VideoUNet]:
    """The video UNet of a method with these knobs and tensors; afterwards the image model is as it was."""
    recipe = from_plain(method, dict(knobs))
    video_model = assemble(recipe, model)
    guest = {f"unet.image_unet.{name}": value for name, value in model.unet.state_dict().items()}
    before = {name: guest[name].clone() for name in tensors if name in guest}
    try:
        put(video_model.components(), tensors, recipe.learns())
        yield video_model.unet
    finally:
        put(video_model.components(), before, ())
        video_model.eject()


# -- ours ----------------------------------------------------------------------------------------------------
class Adapter:
    """An adapter of ours, named with ``run=``."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.tensors, self.card = load_adapter(adapter_path(run, "run"))
        self._recipe = recipe_of(self.card, f"run={run}")
        self.method = type(self._recipe)

    def __str__(self) -> str:
        return f"run={self.run} was made by method {self.card.recipe}"

    def copy(self) -> Piece:
        """For vgen's own format, which needs no image model."""
        return Piece(self.tensors, self._recipe, None, self.card)

    def opened(self, backbone: str) -> Piece:
        """With its image model; raises ValueError where ``backbone`` is another one."""
        card = self.card
        model = load_backbone(backbone or card.backbone_source, "" if backbone else f"run={self.run}")
        if unet_fingerprint(model.unet) != card.backbone:
            raise ValueError(
                f"run={self.run} was trained on image model {card.backbone_source} (fingerprint "
                f"{card.backbone}), {model.source} is {unet_fingerprint(model.unet)}; give its own with "
                "backbone="
            )
        beneath = [f"it was trained on {one['file']}, which is not in what was written" for one in card.base]
        return Piece(self.tensors, self._recipe, model, card, beneath)


# -- theirs --------------------------------------------------------------------------------------------------
class Published:
    """A file or folder of another program, named with ``from=``; ``method`` is whose it is, where a person
    says so. A card that vgen wrote into it knows what the format cannot say."""

    def __init__(self, named: str, method: str = "") -> None:
        self.source = Source(named, Path(named).expanduser())
        with _saying(named):
            _refuse_ours(self.source)
            found, self.foreign = recognised(self.source, method)
            self.card = self.foreign.card(self.source)
            written = _written_by(self.card)
        if written and self.foreign.name in _formats(written) and not method:
            found = written
            self.foreign = own_format(written, self.foreign.name)
        self.method = catalogue()[found]
        self.ignored = written if written not in ("", found) else ""
        self._guessed = not (method or written)

    def __str__(self) -> str:
        return f"from={self.source.named} is of method {name_of_class(self.method)}"

    def opened(self, backbone: str, num_positions: int = 0) -> Piece:
        with _saying(self.source.named):
            model = load_backbone(backbone)
            found = self.foreign.read(self.source, model.unet, num_positions)
            refuse_no_numbers(found.tensors, self.source.named)
            recipe = from_plain(self.method, found.knobs)
            notes = [found.origin, *self.source.taken_off(), *found.notes]
            if self.card and not self.ignored:
                recipe = of_card(self.card, recipe, self.foreign, self.source.named)
                notes += ["its knobs come from the vgen card that it carries"]
                notes += another_image_model(self.card, model)
            else:
                notes += [found.assumed, *self._doubts()]
        return Piece(found.tensors, recipe, model, self._new_card(found, recipe, model), notes, self.foreign)

    def _new_card(self, found: Imported, recipe: Recipe, model: ImageModel) -> Card:
        summary = {"imported_from": self.source.path.name, "layout": found.origin}
        return Card.of(name_of(recipe), recipe, model, run={}, summary=summary)

    def _doubts(self) -> list[str]:
        """What is left to say about whose it is."""
        own = name_of_class(self.method)
        if self.ignored:
            return [f"the vgen card that it carries is method {self.ignored}'s and was left unread"]
        also = [name for name in catalogue() if name != own and self._is_a_file_of(name)]
        if not (also and self._guessed):
            return []
        ways = " or ".join(f"method={name}" for name in also)
        return [f"taken for method {own}'s, as its names do not say whose it is; {ways} imports it as that"]

    def _is_a_file_of(self, method: str) -> bool:
        """Whether another method has such files too; a name alone may be of files of several kinds."""
        kinds = {one.name: type(one) for one in catalogue()[method].formats}
        return kinds.get(self.foreign.name) is type(self.foreign)


def name_of_class(method: type[Recipe]) -> str:
    return next(name for name, cls in catalogue().items() if cls is method)


def recognised(source: Source, method: str = "") -> tuple[str, Foreign]:
    """The method and the format of a source: the first that recognises it, of whichever recipe. What nobody
    recognises is for the first that reads and writes such a thing, whose refusal says what it lacks."""
    rows = [(name, one) for name in _importing(method) for one in catalogue()[name].formats]
    for name, one in rows:
        if one.recognises(source):
            return name, one
    usual = [row for row in rows if row[1].containers] or rows
    return next((row for row in usual if row[1].folder is source.is_folder), usual[0])


def _importing(method: str) -> list[str]:
    names = [name for name, cls in catalogue().items() if cls.formats]
    if method and method not in names:
        raise ValueError(
            f"method={method} has no format of other programs to import; those that have are "
            f"{', '.join(names)}"
        )
    return [method] if method else names


def own_format(method: str, name: str) -> Foreign:
    """The format of this name as a method has it: knobs go in and come out by its own fields."""
    return next(one for one in catalogue()[method].formats if one.name == name)


def _formats(method: str) -> list[str]:
    return [one.name for one in catalogue()[method].formats]


def _refuse_ours(source: Source) -> None:
    if not source.is_folder and "vgen" in source.file()[1]:
        raise ValueError(f"from={source.named} is a vgen adapter already; export it with run={source.named}")


@contextmanager
def _saying(named: str) -> Iterator[None]:
    """Puts the name of the file before a refusal that lacks it."""
    try:
        yield
    except ValueError as error:
        if refusal(error) is None or named in str(error):
            raise
        raise ValueError(f"from={named}: {error}") from error


# -- the card that a foreign file carries --------------------------------------------------------------------
def _written_by(text: str) -> str:
    """The method that a card names, where vgen has it."""
    try:
        card = json.loads(text or "{}")
    except (ValueError, RecursionError):  # refused where its knobs are read
        return ""
    name = card.get("recipe") if isinstance(card, dict) else None
    return name if name in catalogue() else ""


def of_card(text: str, found: Recipe, foreign: Foreign, where: str) -> Recipe:
    """The recipe that vgen wrote beside the tensors; it must describe the same modules as the tensors do."""
    try:
        recipe = from_plain(type(found), json.loads(text)["knobs"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # JSON's own is a ValueError
        raise ValueError(
            f"the vgen card in from={where} cannot be read ({error}); export the file again"
        ) from error
    said, seen = (foreign.facts(knobs_of(one)) for one in (recipe, found))
    if said != seen:
        *first, last = said
        raise ValueError(
            f"the vgen card in from={where} contradicts its tensors on {', '.join(first)} or {last}: "
            f"{tuple(said.values())} and {tuple(seen.values())}"
        )
    return recipe


def another_image_model(text: str, model: ImageModel) -> list[str]:
    """What to say where the card that a file carries names another image model than it is imported for."""
    card, here = json.loads(text), unet_fingerprint(model.unet)
    if card.get("backbone", here) == here:
        return []
    return [
        f"it was trained on another image model ({card.get('backbone_source', 'unnamed')}, fingerprint "
        f"{card['backbone']}) than {model.source} ({here}), for which it is imported: its motion may not fit"
    ]
