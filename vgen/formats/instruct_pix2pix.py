"""InstructPix2Pix as diffusers publishes it: a folder whose UNet reads two latents.

Its first convolution is split: the first half is the image model's own, the second one vgen's inserted zero
convolution. Every tensor of the UNet is in the adapter. Text encoder and VAE are those of the image model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.models import UNet2DConditionModel
from torch import Tensor

from vgen.backbones.conditioning import Conditioning
from vgen.backbones.image_model_folder import save
from vgen.formats import model_folder, proof
from vgen.formats.foreign import CARD_FILE, Foreign, Imported, Learnt, Rows, Source
from vgen.formats.state_file import Container

FIRST, GUEST, BESIDE = "conv_in.weight", "unet.image_unet.", "unet.inserted.conv_in.conv.weight"
PIPELINE, SCHEDULER = "StableDiffusionInstructPix2PixPipeline", "EulerAncestralDiscreteScheduler"
SPACING = "trailing"
"""How vgen's Euler-ancestral spreads its timesteps, in diffusers' words."""
READING = "image"
"""The name under which the recipe's zero convolution finds the source."""
MOST_NAMED = 3


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Whether the UNet reads two latents and gives one."""
    first, last = state.get(FIRST), state.get("conv_out.weight")
    return first is not None and last is not None and first.shape[1] == 2 * last.shape[0]


def split(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The whole UNet by vgen's names; the inverse of :func:`joined`."""
    out = {f"{GUEST}{name}": value for name, value in state.items()}
    first = state[FIRST]
    half = first.shape[1] // 2
    out[f"{GUEST}{FIRST}"], out[BESIDE] = first[:, :half].contiguous(), first[:, half:].contiguous()
    return out


def joined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The whole UNet by diffusers' names, its first convolution wide."""
    out = {name.removeprefix(GUEST): value for name, value in tensors.items() if name.startswith(GUEST)}
    return {**out, FIRST: torch.cat([out[FIRST], tensors[BESIDE]], 1)}


def wide_config(unet: UNet2DConditionModel) -> dict[str, Any]:
    """The arguments of diffusers' UNet, but for the width of its first convolution."""
    arguments = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    return {**arguments, "in_channels": 2 * unet.config["out_channels"]}


def wide_unet(unet: UNet2DConditionModel, tensors: Mapping[str, Tensor]) -> UNet2DConditionModel:
    """diffusers' own UNet with the adapter's tensors; ``unet`` gives the shapes."""
    state = joined(tensors)
    with torch.device("meta"):
        wide = UNet2DConditionModel(**wide_config(unet))
    wide.load_state_dict(state, strict=True, assign=True)
    return wide.eval()


def refuse_misfit(state: Mapping[str, Tensor], unet: UNet2DConditionModel, named: str) -> None:
    """Raises ValueError where the image model has other tensors than the folder's UNet."""
    own = {name: tuple(value.shape) for name, value in unet.state_dict().items()}
    first = own[FIRST]
    own[FIRST] = (first[0], 2 * first[1], *first[2:])
    theirs = {name: tuple(value.shape) for name, value in state.items()}
    differ = sorted(name for name in {*own, *theirs} if own.get(name) != theirs.get(name))
    if differ:
        raise ValueError(
            f"from={named} has a UNet of other shapes than the image model: {len(differ)} tensors differ "
            f"(first: {', '.join(differ[:MOST_NAMED])}); give the image model it was trained from with "
            "backbone="
        )


class InstructFolder(Foreign):
    """A pipeline's folder, or that of its UNet alone; a whole pipeline is written."""

    name: ClassVar[str] = "instruct_pix2pix"
    folder: ClassVar[bool] = True
    containers: ClassVar[tuple[Container, ...]] = (Container.SAFETENSORS,)

    def recognises(self, source: Source) -> bool:
        path = _weights(source)
        return path is not None and recognises(source.file(path)[0])

    def card(self, source: Source) -> str:
        path = source.path / CARD_FILE
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def read(self, source: Source, unet: UNet2DConditionModel, num_positions: int) -> Imported:
        path = _weights(source)
        if path is None or not recognises(source.file(path)[0]):
            raise ValueError(
                f"from={source.named} holds no UNet that reads two latents, as InstructPix2Pix's does; give "
                "the folder of its pipeline"
            )
        if num_positions:
            raise ValueError(
                f"from={source.named} is an InstructPix2Pix pipeline, which knows no positions, got "
                f"num_positions={num_positions}; leave it out"
            )
        state = source.file(path)[0]
        refuse_misfit(state, unet, source.named)
        return Imported(
            tensors=split(state),
            knobs={},
            origin=f"InstructPix2Pix, its first convolution split into 2 x {unet.config['out_channels']} "
            "channels",
            notes=["its text encoder and VAE stay unread: those of the image model are used"],
            assumed="assumed, as the folder does not say it: dropout and guidance are the paper's",
        )

    def facts(self, knobs: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def proof_frames(self, knobs: Mapping[str, Any]) -> int:
        return 1

    def write(self, path: Path, learnt: Learnt) -> Rows:
        wide = wide_unet(learnt.unet, learnt.tensors)
        width = next(iter(learnt.tensors.values())).dtype
        save(replace(learnt.model, unet=wide), path, width)
        _say_pipeline(path)
        (path / CARD_FILE).write_text(learnt.card_text(indent=2))
        source = Source(str(path), path)
        back = split(source.file(_weights(source))[0])
        count = proof.same(learnt.tensors, back, str(path))
        difference = proof.agree(_ours(learnt), _theirs(wide.float(), learnt), str(path))
        text = f"differs by {difference:.1e} at most (limit {proof.TOLERANCE:.0e})"
        return [
            ("read back", f"{count} tensors, equal to the bit"),
            ("forward in diffusers", text),
            ("first-frame keys", "are vgen's: diffusers edits frames apart"),
        ]


def _weights(source: Source) -> Path | None:
    """The file with the UNet's tensors."""
    if not source.is_folder:
        return None
    for folder in (source.path / "unet", source.path):
        if _is_a_unets(folder):
            found = model_folder.found(folder)
            if found is not None:
                return found
    return None


def _is_a_unets(folder: Path) -> bool:
    config = folder / "config.json"
    return config.is_file() and '"UNet2DConditionModel"' in config.read_text(
        encoding="utf-8", errors="replace"
    )


def _say_pipeline(path: Path) -> None:
    """Names the pipeline and its scheduler in the folder's own files."""
    index = json.loads((path / "model_index.json").read_text())
    index |= {"_class_name": PIPELINE, "scheduler": ["diffusers", SCHEDULER]}
    (path / "model_index.json").write_text(json.dumps(index, indent=2))
    file = path / "scheduler" / "scheduler_config.json"
    scheduler = json.loads(file.read_text())
    scheduler |= {"_class_name": SCHEDULER, "timestep_spacing": SPACING}
    file.write_text(json.dumps(scheduler, indent=2, sort_keys=True))


def _beside(x: Tensor) -> Tensor:
    """Random latents like ``x`` b f c h w, the same each time."""
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def _ours(learnt: Learnt) -> Tensor:
    given = proof.inputs(learnt.unet, 1)
    said = Conditioning(given.context, concat={READING: _beside(given.x)})
    tensors = {name: value.float() for name, value in learnt.tensors.items()}
    with learnt.assembled(learnt.knobs, tensors) as video:
        return video(given.x, given.t, said)


@torch.no_grad()
def _theirs(wide: UNet2DConditionModel, learnt: Learnt) -> Tensor:
    given = proof.inputs(learnt.unet, 1)
    x = torch.cat([given.x, _beside(given.x)], 2)[:, 0]
    return wide(x, given.t, given.context.tokens, return_dict=False)[0][:, None]
