"""Control-A-Video as its authors publish it: a folder with a UNet and a ControlNet whose layers over frames
stand among those of the image model. It is read alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from diffusers.models import UNet2DConditionModel
from torch import Tensor

from vgen.formats.foreign import Foreign, Imported, Learnt, Rows, Source
from vgen.formats.state_file import Container

FOLDERS = {"unet": "unet", "controlnet": ""}
"""Of the folder, and the name of its net in an adapter; the ControlNet's is that of its field."""
FIELDS = {"depth": "depth", "hed": "scribble", "canny": "edges"}
"""What the ControlNet is shown, by a word in the name of the folder; the last one where none is there."""
_CONV = re.compile(r"^(?P<site>.+)\.(?P<rest>conv_temporal\.(?:weight|bias))$")
_BLOCK = re.compile(r"^(?P<site>.+\.transformer_blocks\.\d+)\.(?P<part>attn|norm)_temporal\.(?P<rest>.+)$")
_OPTIONAL = re.compile(r"(_gamma$|^fps_embedding\.)")
"""Of variants that were never published."""


class PseudoVideoFolder(Foreign):
    """The ControlNet's image weights come along, since its authors' own are not those of the image model."""

    name: ClassVar[str] = "control_a_video"
    folder: ClassVar[bool] = True
    containers: ClassVar[tuple[Container, ...]] = ()

    def recognises(self, source: Source) -> bool:
        files = _files(source)
        return len(files) == len(FOLDERS) and any(map(_CONV.match, source.file(files["unet"])[0]))

    def card(self, source: Source) -> str:
        return ""

    def read(self, source: Source, unet: UNet2DConditionModel, num_positions: int) -> Imported:
        files = _files(source)
        if len(files) < len(FOLDERS):
            raise ValueError(
                f"from={source.named} lacks unet/ or controlnet/ with diffusion_pytorch_model.bin or "
                ".safetensors; give the whole folder of a Control-A-Video checkpoint"
            )
        if num_positions:
            raise ValueError(
                f"from={source.named} is a Control-A-Video checkpoint, whose attention knows no positions, "
                f"got num_positions={num_positions}; leave it out"
            )
        words = [word for word in FIELDS if word in source.path.name]
        shown = FIELDS[words[0] if words else "canny"]
        tensors: dict[str, Tensor] = {}
        for folder, net in FOLDERS.items():
            state = source.file(files[folder])[0]
            _refuse_optional(state, source.named)
            tensors |= _named(state, net or shown)
        return Imported(
            tensors=tensors,
            knobs={"condition": shown},
            origin=f"Control-A-Video, {len(tensors)} tensors: layers over frames, and its ControlNet",
            notes=["the UNet's image weights stay unread: those of the image model are used"],
            assumed=f"assumed by the name of the folder: its ControlNet is shown {shown}",
        )

    def facts(self, knobs: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def proof_frames(self, knobs: Mapping[str, Any]) -> int:
        return 1

    def write(self, path: Path, learnt: Learnt) -> Rows:
        raise ValueError(
            "Control-A-Video's folders are read alone: theirs holds a ControlNet's image weights, which an "
            "adapter has beneath it; export to=vgen"
        )


def _files(source: Source) -> dict[str, Path]:
    """The weights in each of the folders that are there."""
    out = {}
    for folder in FOLDERS if source.is_folder else ():
        found = sorted((source.path / folder).glob("diffusion_pytorch_model.*"))
        fit = [file for file in found if file.suffix in (".safetensors", ".bin")]
        if fit:
            out[folder] = fit[-1]
    return out


def _named(state: Mapping[str, Tensor], net: str) -> dict[str, Tensor]:
    """By vgen's names: layers over frames, and of a ControlNet the image weights too."""
    out = {}
    for name, value in state.items():
        conv, block = _CONV.match(name), _BLOCK.match(name)
        if conv:
            out[f"{net}.inserted.{conv['site'].replace('.', '/')}.{conv['rest']}"] = value
        elif block:
            site = block["site"].replace(".", "/")
            out[f"{net}.inserted.{site}.{block['part']}_temp.{block['rest']}"] = value
        elif net != "unet":
            out[f"{net}.control_net.{name}"] = value
    return out


def _refuse_optional(state: Mapping[str, Tensor], named: str) -> None:
    """Raises ValueError for scales and embeddings that no published checkpoint has."""
    found = [name for name in state if _OPTIONAL.search(name)]
    if found:
        raise ValueError(
            f"from={named} holds {found[0]}, of a variant of Control-A-Video that was never published; vgen "
            "reads those without gamma and without an embedding of the frame rate"
        )
