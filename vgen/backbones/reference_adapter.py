"""A picture's tokens by CLIP and its latents by the VAE, made one (DreamPose, Karras et al. 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vgen.backbones.image_model import ImageModel
from vgen.backbones.picture_tokens import num_picture_tokens
from vgen.backbones.silent import Silent

POOLED = 2
"""Latent cells along a side that are seen as one, by their maximum."""


class ReferenceAdapter(Silent):
    """CLIP's tokens and a token for each latent channel, mixed down to as many as CLIP gives.

    At birth CLIP's tokens pass as they are and the VAE's are not heard. The names of its tensors are those of
    the released code. ``height`` and ``width`` are those of the latents.
    """

    def __init__(self, num_tokens: int, dim: int, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width
        self.nothing: tuple[Tensor, Tensor] | None = None
        self.vae2clip = nn.Linear((height // POOLED) * (width // POOLED), dim)
        self.linear1 = nn.Linear(num_tokens + channels, num_tokens)
        with torch.no_grad():
            self.linear1.weight.copy_(torch.eye(num_tokens, num_tokens + channels))
            self.linear1.bias.zero_()

    def forward(self, tokens: Tensor, latents: Tensor) -> Tensor:
        """``tokens`` b n d and ``latents`` b c h w to b n d."""
        seen = self.vae2clip(F.max_pool2d(latents, POOLED).flatten(2))  # b c d
        both = torch.cat([tokens, seen], 1)
        return self.linear1(both.transpose(1, 2)).transpose(1, 2)

    def silent_outputs(self) -> list[nn.Parameter]:
        return list(self.linear1.parameters())


def reference_adapter(model: ImageModel, height_px: int, width_px: int) -> ReferenceAdapter:
    """For pictures of ``height_px`` x ``width_px``. Raises ValueError where CLIP's tokens are of another
    width than the UNet's words."""
    dim, tower = model.unet.config["cross_attention_dim"], model.image_encoder
    if tower is not None and tower.config.hidden_size != dim:
        raise ValueError(
            f"the image_encoder of {model.source or 'the image model'} gives tokens of "
            f"{tower.config.hidden_size} numbers where its UNet reads words of {dim}; give one of that "
            "width, as "
            "CLIP ViT-B/32 is for Stable Diffusion 1.x"
        )
    factor = model.vae_factor
    return ReferenceAdapter(
        num_tokens=num_picture_tokens(model),
        dim=dim,
        channels=model.latent_channels,
        height=height_px // factor,
        width=width_px // factor,
    )
