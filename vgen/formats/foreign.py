"""A format of other programs, as a value that recipes carry.

It knows files, names and shapes, and no recipe: knobs go in and come out as plain data.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from diffusers.models import UNet2DConditionModel
from torch import Tensor

from vgen.backbones.image_model import ImageModel
from vgen.backbones.video_unet import VideoUNet
from vgen.formats import model_folder
from vgen.formats.adapter import Card
from vgen.formats.state_file import Container
from vgen.formats.wrapping import unwrapped

CARD_KEY, CARD_FILE = "vgen_card", "vgen.json"
"""Where vgen's card stands in a file's metadata, and in a folder."""

Rows = list[tuple[str, str]]
"""What a proof has found, for a person: a heading and a sentence each."""
Assembled = Callable[[Mapping[str, Any], Mapping[str, Tensor]], AbstractContextManager[VideoUNet]]
"""Knobs and tensors to the video UNet of their method, which is taken apart again at the end."""
_State = tuple[dict[str, Any], dict[str, str]]


@dataclass(slots=True)
class Source:
    """A file or a folder that a person has ``named``. Every file in it is read once."""

    named: str
    path: Path
    _read: dict[Path, _State] = field(default_factory=dict)

    @property
    def is_folder(self) -> bool:
        return self.path.is_dir()

    def file(self, path: Path | None = None) -> _State:
        """Entries and metadata of the file, or of one inside the folder."""
        where = path or self.path
        if where not in self._read:
            self._read[where] = model_folder.read(where)
        return self._read[where]

    def state(self, path: Path | None = None) -> dict[str, Any]:
        """Tensors without the wrappers and prefixes that other programs put around them."""
        return unwrapped(self.file(path)[0]).state

    def taken_off(self) -> list[str]:
        """What was around the tensors of the file, in a sentence; nothing where there was nothing."""
        around = "" if self.is_folder else str(unwrapped(self.file()[0]))
        return [f"taken off: {around}"] if around else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """``tensors`` as an adapter holds them, the recipe's ``knobs`` that they imply as plain data, and what
    should be said about both: ``notes`` of the file, and what is ``assumed`` where no card says it."""

    tensors: dict[str, Tensor]
    knobs: dict[str, Any]
    origin: str
    notes: list[str]
    assumed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What a format writes: learnt ``tensors`` by vgen's names, all ``knobs`` of their recipe as plain data,
    the ``card`` that goes along, and the image model, with its UNet, that they were learnt in."""

    tensors: dict[str, Tensor]
    knobs: dict[str, Any]
    card: Card
    model: ImageModel
    assembled: Assembled

    @property
    def unet(self) -> UNet2DConditionModel:
        return self.model.unet

    def card_text(self, indent: int | None = None) -> str:
        return json.dumps(asdict(self.card), sort_keys=True, indent=indent)


class Foreign(ABC):
    """``name`` is what a person types. ``folder`` says whether a folder is written, and ``containers`` how;
    a format without any is only read, and one that is ``written_only`` is read by others."""

    name: ClassVar[str]
    folder: ClassVar[bool]
    containers: ClassVar[tuple[Container, ...]]
    written_only: bool = False

    @abstractmethod
    def recognises(self, source: Source) -> bool:
        """Whether the names in it are this format's. Nothing is checked yet."""

    @abstractmethod
    def card(self, source: Source) -> str:
        """The vgen card that it carries as text, or nothing."""

    @abstractmethod
    def read(self, source: Source, unet: UNet2DConditionModel, num_positions: int) -> Imported:
        """The tensors in it for ``unet``; ``num_positions`` is what a person says, 0 for nothing.

        Raises ValueError where it is damaged, of another format, or for another image model.
        """

    @abstractmethod
    def facts(self, knobs: Mapping[str, Any]) -> dict[str, Any]:
        """Knobs that the tensors themselves show, by their English names; a card can't say otherwise."""

    @abstractmethod
    def proof_frames(self, knobs: Mapping[str, Any]) -> int:
        """The length of the clip on which a proof runs."""

    @abstractmethod
    def write(self, path: Path, learnt: Learnt) -> Rows:
        """Write ``path``, prove it, and say what was proved and what readers have to be told.

        Raises ValueError where the format can't hold it, or where the proof fails.
        """
