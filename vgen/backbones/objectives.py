"""What the parts of an image model are trained on, apart from denoising: reconstruction for the VAE, agreement for the CLIP pair."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor


def autoencoding_loss(
    vae: AutoencoderKL, pixels: Tensor, generator: torch.Generator | None, *, l1: float, mse: float, kl: float, detail: float = 0.0
) -> dict[str, Tensor]:
    """Reconstruction and KL of ``pixels`` b 3 H W in [-1, 1] (Rombach et al. 2022, section 3.1, without the adversarial term).

    Returns scalars: ``loss`` and its parts; the KL is summed over a picture's latent. Pixels that differ from the picture's median
    colour by more than .1 count ``1 + detail`` times: on plain grounds they are few, and they are what a caption speaks of.
    """
    posterior = vae.encode(pixels).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
    reconstruction = vae.decode(posterior.mean + posterior.std * noise).sample
    median = pixels.flatten(2).median(-1).values[..., None, None]
    weight = 1 + detail * ((pixels - median).abs().amax(1, keepdim=True) > 0.1).float()
    error = (reconstruction - pixels).abs()
    parts = {"l1": error.mean(), "mse": error.square().mean(), "kl": posterior.kl().mean()}
    return {"loss": (weight * (l1 * error + mse * error.square())).mean() + kl * parts["kl"], **parts}


def contrastive_loss(image: Tensor, text: Tensor, negatives: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE (Radford et al. 2021, figure 3) with hard negatives.

    ``negatives`` b d is, for every row, the text of a caption that differs from the true one in a single fact; it joins that row's
    candidates only. All embeddings are normalised here; ``scale`` multiplies cosines.
    """
    image, text, negatives = (F.normalize(v.float(), dim=-1) for v in (image, text, negatives))
    logits = scale * image @ text.T
    hard = scale * (image * negatives).sum(-1, keepdim=True)
    target = torch.arange(len(image), device=image.device)
    return (F.cross_entropy(torch.cat([logits, hard], 1), target) + F.cross_entropy(logits.T, target)) / 2
