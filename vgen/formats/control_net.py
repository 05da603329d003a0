"""diffusers' ``ControlNetModel`` folder, to and from a ControlNet of vgen's. Law: ``read(write(s)) == s``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.models import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from vgen.backbones.control_net import (
    encoder_copy,
    load_control_net,
    picture_factor,
    refuse_misfit,
    widths_of,
)
from vgen.backbones.image_model import size_conditioning
from vgen.formats import proof
from vgen.formats.foreign import CARD_FILE, Foreign, Imported, Learnt, Rows, Source
from vgen.formats.state_file import Container
from vgen.shapes import fold

SHOWN_BY_NAME = {
    "canny": "edges",
    "hed": "edges",
    "softedge": "edges",
    "edges": "edges",
    "scribble": "scribble",
    "openpose": "pose",
    "pose": "pose",
    "depth": "depth",
}
"""What published ControlNets are shown, by a word in the folder's name."""
AS_IT_IS = "control"
WEIGHTS = "diffusion_pytorch_model.safetensors"
FRAMES = 2


class ControlNetFolder(Foreign):
    """What it is shown stands in vgen's card; without one the folder's name is asked."""

    name: ClassVar[str] = "controlnet"
    folder: ClassVar[bool] = True
    containers: ClassVar[tuple[Container, ...]] = (Container.SAFETENSORS,)

    def recognises(self, source: Source) -> bool:
        path = source.path / "config.json"
        return path.is_file() and '"ControlNetModel"' in path.read_text(encoding="utf-8", errors="replace")

    def card(self, source: Source) -> str:
        path = source.path / CARD_FILE
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def read(self, source: Source, unet: UNet2DConditionModel, num_positions: int) -> Imported:
        if num_positions:
            raise ValueError(
                f"from={source.named} is a ControlNet, which has no position table, got "
                f"num_positions={num_positions}; leave it out"
            )
        net = load_control_net(source.path, torch.device("cpu"))
        refuse_misfit(net, unet)
        _refuse_other_widths(net, source.named)
        shown = _shown(self.card(source), source.path.resolve().name)
        tensors = {f"{shown}.control_net.{name}": value for name, value in net.state_dict().items()}
        per_cell = f"{picture_factor(net)} pixels of a picture per latent cell"
        return Imported(
            tensors=tensors,
            knobs={"condition": shown},
            origin=f"diffusers' ControlNetModel, {per_cell}",
            notes=[],
            assumed=f"it is taken to be shown {shown}, by the folder's name; if that is wrong, name "
            f"the folder after what it is shown ({', '.join(SHOWN_BY_NAME)})",
        )

    def facts(self, knobs: Mapping[str, Any]) -> dict[str, Any]:
        return {"what it is shown": knobs["condition"], "net": "ControlNetModel"}

    def proof_frames(self, knobs: Mapping[str, Any]) -> int:
        return FRAMES

    def write(self, path: Path, learnt: Learnt) -> Rows:
        prefix = f"{learnt.knobs['condition']}.control_net."
        own = {name.removeprefix(prefix): value for name, value in learnt.tensors.items()}
        net = net_of(learnt.unet, own)
        net.save_pretrained(path, safe_serialization=True)
        (path / CARD_FILE).write_text(learnt.card_text(indent=2))
        written = Source(str(path), path).file(path / WEIGHTS)[0]
        count = proof.same(own, written, str(path))
        again = load_control_net(path, torch.device("cpu"))
        wide = nn.Module.to(net, torch.float32)  # diffusers' own wraps it in a type that mypy can't read
        difference = proof.agree(_said(wide, learnt.unet), _said(again, learnt.unet), str(path))
        text = f"differs by {difference:.1e} at most (limit {proof.TOLERANCE:.0e})"
        return [("read back", f"{count} tensors, equal to the bit"), ("forward in diffusers", text)]


def _refuse_other_widths(net: ControlNetModel, named: str) -> None:
    """Raises ValueError where control pictures go through layers of other widths than the paper's."""
    found = tuple(net.config["conditioning_embedding_out_channels"])
    usual = widths_of(len(found) - 1)
    if found != usual:
        raise ValueError(
            f"from={named} has conditioning_embedding_out_channels={list(found)}, and vgen's ControlNets "
            f"have {list(usual)}; an edit takes it as it is, by control_net.path={named}"
        )


def net_of(unet: UNet2DConditionModel, own: Mapping[str, Tensor]) -> ControlNetModel:
    """diffusers' net with these tensors, which must be all of its own."""
    blocks = {name.split(".")[2] for name in own if name.startswith("controlnet_cond_embedding.blocks.")}
    net = encoder_copy(unet, 2 ** (len(blocks) // 2))
    lacking = sorted(set(net.state_dict()) ^ set(own))
    if lacking:
        raise ValueError(
            f"the ControlNet does not fit the image model: {len(lacking)} tensors differ (first: "
            f"{', '.join(lacking[:3])}); give the backbone that it was trained on"
        )
    net.load_state_dict(own)
    net.eval().requires_grad_(False)
    return nn.Module.to(net, next(iter(own.values())).dtype)


def _shown(card: str, folder: str) -> str:
    """The field that a net is shown."""
    try:
        return json.loads(card)["knobs"]["condition"]
    except (ValueError, KeyError, TypeError):
        words = (field for word, field in SHOWN_BY_NAME.items() if word in folder.lower())
        return next(words, AS_IT_IS)


@torch.no_grad()
def _said(net: ControlNetModel, unet: UNet2DConditionModel) -> Tensor:
    """What it says of two small clips, frames as a batch, as one row of numbers."""
    given = proof.inputs(unet, FRAMES)
    side = given.x.shape[-1] * picture_factor(net)
    draw = torch.Generator().manual_seed(1)
    pictures = torch.rand(len(given.x), FRAMES, 3, side, side, generator=draw)
    text = given.context.tokens.repeat_interleave(FRAMES, 0)
    more = {"added_cond_kwargs": size_conditioning(given.x, given.context), "return_dict": False}
    t = given.t.repeat_interleave(FRAMES)
    down, mid = net.eval()(fold(given.x), t, text, fold(pictures), 1.0, **more)
    return torch.cat([value.flatten() for value in (*down, mid)])
