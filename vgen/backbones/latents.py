"""Giving a VAE's latents zero mean and unit variance in every channel.

Its own 1 x 1 convolutions do it, so that pictures stay exactly as they were.
"""

from __future__ import annotations

import torch
from diffusers.models import AutoencoderKL
from torch import Tensor


def plain_units(vae: AutoencoderKL) -> None:
    """Its latents are read as they come."""
    vae.register_to_config(scaling_factor=1.0, shift_factor=None, latents_mean=None, latents_std=None)


@torch.no_grad()
def standardise(vae: AutoencoderKL, latents: Tensor) -> None:
    """Fold the mean and deviation of unscaled ``latents`` (n c h w) into ``quant_conv`` and
    ``post_quant_conv``.

    The scaling factor becomes 1. Raises ValueError for a VAE that has no such convolutions.
    """
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    encode, decode = vae.quant_conv, vae.post_quant_conv
    if encode is None or decode is None:
        raise ValueError(
            "the VAE has no quant_conv or no post_quant_conv to fold statistics into; use one built with both"
        )
    assert encode.bias is not None  # diffusers builds both with a bias
    assert decode.bias is not None
    # mean' = (mean - m) / s and logvar' = logvar - 2 log s
    encode.weight[:channels] /= std[:, None, None, None]
    encode.bias[:channels] = (encode.bias[:channels] - mean) / std
    encode.bias[channels:] -= 2 * std.log()
    # decode(z) sees s z' + m
    decode.bias += decode.weight[:, :, 0, 0] @ mean
    decode.weight *= std[None, :, None, None]
    plain_units(vae)
