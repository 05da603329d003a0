"""Adapters and what lies beneath them: one layer of learning upon another."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vgen.app.plain import from_plain
from vgen.backbones.image_model import ImageModel
from vgen.formats import state_file
from vgen.formats.adapter import Card, file_sha256, load_adapter, unet_shapes
from vgen.formats.low_rank_files import WEIGHTS
from vgen.methods import Recipe, catalogue, given_low_rank, name_of
from vgen.resources import data_dir
from vgen.spec import spec

log = logging.getLogger(__name__)
TOYBOX, SHIPPED, UNTRAINED = "toybox", "shipped", "untrained"
SHIPPED_FOLDERS = {SHIPPED: "motion_module", "shipped_edges": "control_edges", "shipped_pose": "control_pose"}
"""Adapters that come with the toybox: a motion module, and nets that hold a clip to edges and to poses."""
IMAGE_MODEL = ("unet", "vae", "text_encoder", "text_encoder_2", "image_encoder")
RETIRED = frozenset({"num_steps", "guidance"})
"""Knobs in the cards of adapters written before these numbers were those of sampling."""


@spec
class StackEntry:
    """One slot of a stack: an adapter, and how loud its layers are; 1 is as trained, 0 unheard."""

    name: str = ""
    file: str = ""
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(
                f"a slot of a stack is named in letters and digits, as stack.pan.file=FILE, got {self.name!r}"
            )
        if not self.file:
            raise ValueError(f"stack.{self.name} names no adapter; give stack.{self.name}.file=FILE")


@dataclass(frozen=True, slots=True)
class Layer:
    """An adapter that was read: its tensors, card and recipe, the slot it goes into, and how it was named."""

    slot: str
    path: Path
    tensors: dict[str, Tensor]
    card: Card
    recipe: Recipe
    named: str
    scale: float = 1.0

    def refuse_misfit(self, model: ImageModel, name: str, fingerprint: str) -> None:
        """Raises ValueError where the layer does not fit the image model: other shapes, or the layer holds
        weights of the model that it was trained on. What is inserted goes onto any model of the family, as
        one motion module onto many personalised ones (Guo et al. 2023), with a remark where it is another.
        What another program wrote says nothing of its model; its shapes were compared."""
        if self.card.backbone in (fingerprint, ""):
            return
        if self.card.shapes and self.card.shapes != unet_shapes(model.unet):
            raise ValueError(
                f"{self.named} was trained on an image model of other shapes, {self.card.backbone_source}; "
                f"{name} "
                "does not fit: give the backbone it was trained on, or one of its family"
            )
        trained_on = f"image model {self.card.backbone_source} (fingerprint {self.card.backbone})"
        if any(_is_the_models_own(tensor) for tensor in self.tensors):
            raise ValueError(
                f"{self.named} was trained on {trained_on}, weights of which it holds, {name} is "
                f"{fingerprint}; give the backbone it was trained on"
            )
        log.warning("%s was trained on %s; it is used on another one, %s", self.named, trained_on, name)

    def as_base(self) -> dict[str, Any]:
        """How the card of what is trained upon it names it."""
        return {
            "name": self.slot,
            "file": str(self.path.absolute()),
            "sha256": file_sha256(self.path),
            "scale": self.scale,
            "recipe": self.card.recipe,
            "given": not self.card.backbone,
        }


Opened = list[Layer | StackEntry]
"""Adapters that were read, and files of other programs that are read when their image model is known."""


def _is_the_models_own(tensor: str) -> bool:
    """Whether a tensor of an adapter takes the place of one of the image model, rather than being
    inserted."""
    part = tensor.partition(".")[0]
    return part in IMAGE_MODEL and ".inserted." not in tensor


def opened(adapter: str, named: str, slot: str = "", scale: float = 1.0) -> Opened:
    """An adapter, and before it those that it was trained on. Raises ValueError where one of them is gone or
    is no longer the file that it was."""
    path = adapter_path(adapter, named.partition("=")[0])
    tensors, card = load_adapter(path)
    beneath = [layer for base in card.base for layer in _beneath(base, path, named)]
    return [*beneath, Layer(slot, path, tensors, card, recipe_of(card, named), named, scale)]


def stacked(stack: Sequence[StackEntry], loras: Sequence[StackEntry]) -> Opened:
    """What ``stack.NAME.file`` and ``loras.NAME.file`` name, with what lies beneath each."""
    out: Opened = []
    for entry in stack:
        out += opened(entry.file, f"stack.{entry.name}.file={entry.file}", entry.name, entry.scale)
    return [*out, *loras]


def read_for(model: ImageModel, found: Opened) -> list[Layer]:
    """Every file once, the low-rank layers of other programs by the names and shapes of the image model."""
    return unique([one if isinstance(one, Layer) else _given(one, model) for one in found])


def _given(entry: StackEntry, model: ImageModel) -> Layer:
    """Low-rank layers that another program wrote. Raises ValueError where they do not fit the image model."""
    named = f"loras.{entry.name}.file={entry.file}"
    path = Path(entry.file).expanduser()
    path = path / WEIGHTS if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"{named} is no file; give a .safetensors or .ckpt of low-rank layers")
    entries, metadata = state_file.read(path)
    if "vgen" in metadata:
        raise ValueError(f"{named} is an adapter of vgen's; give it as stack.{entry.name}.file={entry.file}")
    try:
        tensors, recipe = given_low_rank(entries, metadata, model)
    except ValueError as error:
        raise ValueError(f"{named}: {error}") from error
    card = Card(
        recipe=name_of(recipe), knobs={}, backbone="", backbone_source=model.source, run={}, summary={}
    )
    return Layer(entry.name, path, tensors, card, recipe, named, entry.scale)


def _beneath(base: dict[str, Any], path: Path, named: str) -> Opened:
    found = Path(base["file"])
    if not found.is_file():
        found = path.parent / found.name
    if not found.is_file():
        raise ValueError(
            f"{named} was trained upon {base['file']} (sha256 {base['sha256'][:16]}), which is gone; put "
            "that file "
            f"back, or beside {path.name}"
        )
    if file_sha256(found) != base["sha256"]:
        raise ValueError(
            f"{named} was trained upon {found}, which has changed since (sha256 {file_sha256(found)[:16]}, "
            "was "
            f"{base['sha256'][:16]}); put the file back that it was trained upon"
        )
    if base.get("given"):
        return [StackEntry(name=base["name"], file=str(found), scale=base.get("scale", 1.0))]
    return opened(str(found), f"base {found}", base["name"] or "base", base.get("scale", 1.0))


def unique(layers: Sequence[Layer]) -> list[Layer]:
    """Each file once; two that want one slot are refused."""
    out: list[Layer] = []
    for layer in layers:
        if any(layer.path.samefile(other.path) for other in out):
            continue
        twin = next((other for other in out if other.slot == layer.slot), None)
        if twin is not None:
            raise ValueError(
                f"two adapters want the slot {layer.slot or 'adapter'!r}: {layer.named} and {twin.named}; "
                "give them slots of their own, or, where one is the base that another adapter was trained "
                "upon, leave the other out"
            )
        out.append(layer)
    return out


def adapter_path(adapter: str, key: str = "adapter") -> Path:
    """One that is shipped, a file, or the folder of a run; ``key`` is what gave it. Raises ValueError where
    there is none."""
    path = Path(adapter).expanduser()
    if adapter in SHIPPED_FOLDERS:
        path = data_dir() / TOYBOX / SHIPPED_FOLDERS[adapter]
    if path.is_dir():
        path = path / "adapter.safetensors"
    if not path.is_file():
        names = [*SHIPPED_FOLDERS, *([UNTRAINED] if key == "adapter" else [])]  # others want what is learnt
        *most, last = names
        raise ValueError(
            f"{key}={adapter} is no file; give a run's folder, an adapter.safetensors, "
            f"{', '.join(most)} or {last}"
        )
    return path


def recipe_of(card: Card, named: str = "adapter") -> Recipe:
    """The recipe a card names, with its knobs; plain data only, nothing is instantiated by a name in the
    file. ``named`` says whose card it is where it cannot be read."""
    if card.recipe not in catalogue():
        raise ValueError(
            f"{named} was made by method {card.recipe!r}, which this vgen does not have; it has "
            f"{', '.join(catalogue())}"
        )
    try:
        return from_plain(catalogue()[card.recipe], {k: v for k, v in card.knobs.items() if k not in RETIRED})
    except ValueError as error:
        raise ValueError(
            f"the vgen card of {named} cannot be read ({error}); copy or export the file again"
        ) from error
