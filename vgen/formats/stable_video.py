"""Stable Video Diffusion's layers over frames, as diffusers publishes them: those of its UNet
(``UNetSpatioTemporalConditionModel``) and of its decoder (``AutoencoderKLTemporalDecoder``).

They are Align your Latents' layers with another meaning of their shares. What else these networks hold
(layers of space, the first frame beside x, embeddings of frame rate and motion) stays unread: vgen has the
layers, and not the image-to-video model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from diffusers.models import UNet2DConditionModel
from torch import Tensor

from vgen.backbones.sites import Kind, sites
from vgen.formats.foreign import Foreign, Imported, Learnt, Rows, Source
from vgen.formats.state_file import Container

_IN_RESNET = re.compile(
    r"^(?P<site>.+\.resnets\.\d+)\.(?:time_mixer\.)?(?P<rest>temporal_res_block\..+|mix_factor)$"
)
_IN_BLOCK = re.compile(
    r"^(?P<attention>.+\.attentions\.\d+)\.temporal_transformer_blocks\.(?P<index>\d+)\.(?P<rest>.+)$"
)
_SHARED = re.compile(
    r"^(?P<attention>.+\.attentions\.\d+)\.(?:time_mixer\.)?(?P<rest>mix_factor|time_pos_embed\..+)$"
)
LAST = "decoder.time_conv_out."
"""The decoder's last convolution, over frames, which nothing mixes."""
MOST_NAMED = 3
WEIGHTS = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
)


def over_frames(state: Mapping[str, Tensor], net: str) -> dict[str, Tensor]:
    """The tensors of the layers over frames by vgen's names, in the net ``net``."""
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        for path, rest in _places(name):
            out[f"{net}.inserted.{path.replace('.', '/')}.{rest}"] = value
        if name.startswith(LAST):
            kernel = value[..., 0, 0] if value.ndim > 1 else value  # c c 3 1 1 to c c 3
            out[f"{net}.inserted.decoder/conv_out.conv.{name.removeprefix(LAST)}"] = kernel
    return out


def _places(name: str) -> list[tuple[str, str]]:
    """The site that a tensor's layer stands at, and the tensor's name in the layer."""
    if found := _IN_BLOCK.match(name):
        block = f"{found['attention']}.transformer_blocks.{found['index']}"
        return [(block, f"temporal_transformer_block.{found['rest']}")]
    if found := _SHARED.match(name):
        return [(f"{found['attention']}.transformer_blocks.0", found["rest"])]
    found = _IN_RESNET.match(name)
    return [(found["site"], found["rest"])] if found else []


def refuse_deep(state: Mapping[str, Tensor], named: str) -> None:
    """Raises ValueError where the blocks of one attention share a position and a share of their own."""
    deep = [name for name in state if (found := _IN_BLOCK.match(name)) and found["index"] != "0"]
    if deep:
        raise ValueError(
            f"from={named} has several transformer blocks in one attention (first: {deep[0]}), and vgen "
            "reads networks with one, as Stable Video Diffusion's; give such a one"
        )


class _Folder(Foreign):
    """A folder of one of diffusers' networks, or of a pipeline with it in ``INSIDE``; it is only read."""

    folder: ClassVar[bool] = True
    containers: ClassVar[tuple[Container, ...]] = ()
    INSIDE: ClassVar[str]
    CLASS: ClassVar[str]

    def recognises(self, source: Source) -> bool:
        return source.is_folder and self._weights(source) is not None

    def card(self, source: Source) -> str:
        return ""

    def facts(self, knobs: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def proof_frames(self, knobs: Mapping[str, Any]) -> int:
        return 2

    def write(self, path: Path, learnt: Learnt) -> Rows:
        raise ValueError(f"{self.name} is only read, got out={path}; write vgen's own format with to=vgen")

    def _state(self, source: Source, num_positions: int) -> dict[str, Tensor]:
        """The network's tensors. Raises ValueError where there are none."""
        path = self._weights(source) if source.is_folder else None
        if path is None:
            raise ValueError(
                f"from={source.named} holds no {self.CLASS}; give a folder with its config.json and "
                "weights, or "
                f"a pipeline's with them in {self.INSIDE}/"
            )
        if num_positions:
            raise ValueError(
                f"from={source.named} computes its positions, which have no table, got "
                f"num_positions={num_positions}; leave it out"
            )
        state = source.file(path)[0]
        refuse_deep(state, source.named)
        return state

    def _weights(self, source: Source) -> Path | None:
        for folder in (source.path / self.INSIDE, source.path):
            config = folder / "config.json"
            if config.is_file() and f'"{self.CLASS}"' in config.read_text("utf-8", errors="replace"):
                found = [folder / name for name in WEIGHTS if (folder / name).is_file()]
                return found[0] if found else None
        return None


class StableVideoUNet(_Folder):
    name: ClassVar[str] = "stable_video_unet"
    INSIDE: ClassVar[str] = "unet"
    CLASS: ClassVar[str] = "UNetSpatioTemporalConditionModel"

    def read(self, source: Source, unet: UNet2DConditionModel, num_positions: int) -> Imported:
        state = self._state(source, num_positions)
        tensors = over_frames(state, "unet")
        _refuse_lacking(tensors, unet, source.named)
        unread = len(state) - len(tensors)
        return Imported(
            tensors=tensors,
            knobs={"conv": {"mixing": "sigmoid"}, "attention": {"mixing": "sigmoid"}},
            origin=f"Stable Video Diffusion, the {len(tensors)} tensors of its layers over frames",
            notes=[
                f"{unread} tensors stay unread: its layers of space, and what tells it the first frame, "
                "the frame "
                "rate and the motion"
            ],
            assumed="assumed, as the folder does not say it: schedule and prediction are the image model's",
        )


class StableVideoDecoder(_Folder):
    name: ClassVar[str] = "stable_video_decoder"
    INSIDE: ClassVar[str] = "vae"
    CLASS: ClassVar[str] = "AutoencoderKLTemporalDecoder"

    def read(self, source: Source, unet: UNet2DConditionModel, num_positions: int) -> Imported:
        state = self._state(source, num_positions)
        tensors = over_frames(state, "vae")
        unread = len(state) - len(tensors)
        return Imported(
            tensors=tensors,
            knobs={"conv": {"mixing": "sigmoid_of_frames"}},
            origin=f"Stable Video Diffusion's decoder, the {len(tensors)} tensors of its layers over frames",
            notes=[f"{unread} tensors stay unread: the encoder, and the decoder's layers of space"],
            assumed="",
        )


def _refuse_lacking(tensors: Mapping[str, Tensor], unet: UNet2DConditionModel, named: str) -> None:
    """Raises ValueError where the image model has other residual or transformer blocks."""
    wanted = {site.path.replace(".", "/") for site in sites(unet) if site.kind in (Kind.RESNET, Kind.BLOCK)}
    found = {name.split(".")[2] for name in tensors}
    differ = sorted(wanted ^ found)
    if differ:
        raise ValueError(
            f"from={named} has layers over frames at other places than the image model's {len(wanted)} "
            "blocks: "
            f"{len(differ)} differ (first: {', '.join(differ[:MOST_NAMED])}); give an image model of its "
            "shapes with backbone="
        )
