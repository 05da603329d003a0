"""A ControlNet for some frames of a clip: it sees a condition and a mask, and never the noise (Guo et al.
2023, SparseCtrl, section 3.2)."""

from __future__ import annotations

from diffusers.models import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from vgen.backbones.control_net import encoder_copy

MASK_CHANNELS = 1


class LatentEmbedding(nn.Module):
    """One convolution of latents and their mask, zero at birth."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_out = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(x)


def sparse_encoder(unet: UNet2DConditionModel, pixels_per_cell: int) -> ControlNetModel:
    """A copy of the image UNet's encoder that reads pictures of ``pixels_per_cell`` pixels per latent cell
    and a mask; 1 means latents and a mask."""
    net = encoder_copy(unet, pixels_per_cell)
    embedding = net.controlnet_cond_embedding
    if pixels_per_cell == 1:
        channels = unet.config["in_channels"] + MASK_CHANNELS
        own = LatentEmbedding(channels, embedding.conv_out.out_channels)
        # for mypy, it stays an embedding of pictures
        setattr(net, "controlnet_cond_embedding", own.to(embedding.conv_out.weight.device))  # noqa: B010
    else:
        first = embedding.conv_in
        embedding.conv_in = nn.Conv2d(
            first.in_channels + MASK_CHANNELS, first.out_channels, 3, padding=1, device=first.weight.device
        )
    return net
