"""diffusers' ControlNet from disk, and whether it belongs to an image UNet."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.models import ControlNetModel, UNet2DConditionModel
from torch import nn

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
