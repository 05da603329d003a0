"""diffusers' ControlNet from disk, and whether it belongs to an image UNet."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.models import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from vgen.backbones.foreign_settings import read_settings


def load_control_net(folder: Path, device: torch.device) -> ControlNetModel:
    """Read a diffusers-layout ControlNet from disk in fp32, frozen; nothing is downloaded and no pickle is
    opened.

    Raises ValueError naming what is missing."""
    config = folder / "config.json"
    kind = read_settings(config).get("_class_name") if config.is_file() else None
    if kind != "ControlNetModel" or not any(folder.glob("*.safetensors")):
        found = (
            f"a {kind} without safetensors"
            if kind == "ControlNetModel"
            else f"of class {kind}"
            if kind
            else "without config.json"
        )
        raise ValueError(
            f"ControlNet {folder} is {found}; give a folder in diffusers' layout (config.json of a "
            "ControlNetModel, *.safetensors)"
        )
    options = {"use_safetensors": True, "local_files_only": True}
    # low_cpu_mem_usage needs accelerate
    net = ControlNetModel.from_pretrained(
        folder, torch_dtype=torch.float32, low_cpu_mem_usage=False, **options
    )
    net.eval().requires_grad_(False)
    return nn.Module.to(net, device)  # diffusers' own wraps it in a type that mypy can't read


WIDTHS = (16, 32, 96, 256)
"""Of the layers that a control picture goes through, each but the first halving it (Zhang et al. 2023)."""


def widths_of(halvings: int) -> tuple[int, ...]:
    """Those of a net whose control pictures are halved so often."""
    return WIDTHS[: halvings + 1] + WIDTHS[-1:] * (halvings + 1 - len(WIDTHS))


def encoder_copy(unet: UNet2DConditionModel, pixels_per_cell: int) -> ControlNetModel:
    """A ControlNet that starts from the image UNet's encoder and says nothing yet (section 3.2).

    A control picture has ``pixels_per_cell`` pixels per latent cell, as the clip itself: a power of two.
    """
    widths = widths_of(pixels_per_cell.bit_length() - 1)
    device = next(unet.parameters()).device
    with torch.device("meta" if device.type == "meta" else "cpu"):
        return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=widths)


class LatentHint(nn.Module):
    """One convolution of latents, in the place of the layers that a control picture goes through."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        return self.conv_in(latents)


def latent_encoder_copy(unet: UNet2DConditionModel) -> ControlNetModel:
    """:func:`encoder_copy` that is shown latents, through a copy of the UNet's first convolution (DisCo, Wang
    et al. 2023). It says nothing yet, by its last convolutions alone."""
    net = encoder_copy(unet, 1)
    first = net.conv_in
    hint = LatentHint(first.in_channels, first.out_channels).to(first.weight.device)
    hint.conv_in.load_state_dict(first.state_dict())
    # for mypy, it stays an embedding of pictures
    setattr(net, "controlnet_cond_embedding", hint)  # noqa: B010
    return net


def refuse_misfit(net: ControlNetModel, unet: UNet2DConditionModel) -> None:
    """Raise ValueError for a ControlNet of another image model than ``unet``'s."""
    names = ("block_out_channels", "layers_per_block", "cross_attention_dim", "in_channels")
    wrong = {
        name: (net.config[name], unet.config[name])
        for name in names
        if _plain(net.config[name]) != _plain(unet.config[name])
    }
    if wrong:
        facts = "; ".join(
            f"{name} {_plain(theirs)}, the UNet's is {_plain(own)}" for name, (theirs, own) in wrong.items()
        )
        raise ValueError(
            f"the ControlNet belongs to another image model ({facts}); use one that was trained on this one"
        )


def picture_factor(net: ControlNetModel) -> int:
    """Pixels of a control picture per latent cell."""
    return 2 ** (len(net.config["conditioning_embedding_out_channels"]) - 1)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
