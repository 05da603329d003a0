"""A net beside the UNet that brings latents which are given to every resolution of the UNet (Blattmann et
al. 2023, Align your Latents, section 3.2: a learned down-sampling)."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from vgen.backbones.image_model import ImageModel


class ContextNet(nn.Module):
    """Latents and a mask, ``n c h w``, to one map per level, each with its level's width and half the sides
    of the one before."""

    def __init__(self, channels: int, widths: list[int]) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        downs = [nn.Conv2d(wide, narrow, 3, stride=2, padding=1) for wide, narrow in pairwise(widths)]
        self.down = nn.ModuleList(downs)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = [self.conv_in(x)]
        for down in self.down:
            maps.append(down(F.silu(maps[-1])))
        return tuple(maps)


def context_net(model: ImageModel) -> nn.Module:
    """For the latents of ``model``, and a mask in a channel of its own."""
    return ContextNet(model.latent_channels + 1, list(model.unet.config["block_out_channels"]))
