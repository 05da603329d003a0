"""A net beside the UNet that turns pictures into feature maps, one per resolution (T2I-Adapter, Mou et al.
2023, section 3.3)."""

from __future__ import annotations

from diffusers.models import T2IAdapter
from torch import nn

from vgen.backbones.image_model import ImageModel

RESIDUAL_BLOCKS = 2


def feature_net(model: ImageModel) -> nn.Module:
    """diffusers' T2I-Adapter for the UNet of ``model``: pictures n 3 H W to one map per level, n c h w."""
    widths = list(model.unet.config["block_out_channels"])
    return T2IAdapter(
        in_channels=3,
        channels=widths,
        num_res_blocks=RESIDUAL_BLOCKS,
        downscale_factor=model.vae_factor,
        adapter_type="full_adapter",
    )
