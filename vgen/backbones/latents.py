"""Giving a VAE's latents zero mean and unit variance in every channel.

Its own 1 x 1 convolutions do it, so that pictures stay exactly as they were.
"""
from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor


@torch.no_grad()
def standardise(vae: AutoencoderKL, latents: Tensor) -> None:
    """Fold the mean and deviation of unscaled ``latents`` (n c h w) into ``quant_conv`` and ``post_quant_conv``.

    The scaling factor becomes 1.
    """
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    encode, decode = vae.quant_conv, vae.post_quant_conv
    # mean' = (mean - m) / s and logvar' = logvar - 2 log s
    encode.weight[:channels] /= std[:, None, None, None]
    encode.bias[:channels] = (encode.bias[:channels] - mean) / std
    encode.bias[channels:] -= 2 * std.log()
    # decode(z) sees s z' + m
    decode.bias += decode.weight[:, :, 0, 0] @ mean
    decode.weight *= std[None, :, None, None]
    vae.register_to_config(scaling_factor=1.0)
