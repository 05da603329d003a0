"""What the parts of an image model are trained on, apart from denoising: reconstruction for the VAE,
agreement for the CLIP pair."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vgen.backbones.image_model import AutoencoderKL


def autoencoding_loss(
    vae: AutoencoderKL,
    pixels: Tensor,
    generator: torch.Generator | None,
    *,
    l1: float,
    mse: float,
    kl: float,
    detail: float = 0.0,
) -> dict[str, Tensor]:
    """Reconstruction and KL of ``pixels`` b 3 H W in [-1, 1] (Rombach et al. 2022, section 3.1, without the
    adversarial term).

    Returns scalars: ``loss`` and its parts; the KL is summed over a picture's latent. Pixels that differ from
    the picture's median colour by more than .1 count ``1 + detail`` times: on plain grounds they are few, and
    they are what a caption speaks of.
    """
    posterior = vae.encode(pixels).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
    reconstruction = vae.decode(posterior.mean + posterior.std * noise).sample
    median = pixels.flatten(2).median(-1).values[..., None, None]
    weight = 1 + detail * ((pixels - median).abs().amax(1, keepdim=True) > 0.1).float()
    error = (reconstruction - pixels).abs()
    parts = {"l1": error.mean(), "mse": error.square().mean(), "kl": posterior.kl().mean()}
    return {"loss": (weight * (l1 * error + mse * error.square())).mean() + kl * parts["kl"], **parts}


def contrastive_loss(
    anchor: Tensor, positive: Tensor, negatives: Tensor, owner: Tensor, scale: float
) -> Tensor:
    """Symmetric InfoNCE (Radford et al. 2021, figure 3; supervised SimCSE, Gao et al. 2021, eq. 5) of
    ``anchor`` and ``positive``, b d, with hard negatives: row ``owner[i]`` of the anchors alone has
    ``negatives[i]`` (n d, n >= 0) among its candidates. Everything is normalised here; ``scale`` multiplies
    cosines."""
    anchor, positive, negatives = (F.normalize(v.float(), dim=-1) for v in (anchor, positive, negatives))
    logits = scale * anchor @ positive.T
    hard = torch.full((len(anchor), len(negatives)), -torch.inf, device=anchor.device)
    rows = torch.arange(len(negatives), device=anchor.device)
    hard = hard.index_put((owner, rows), scale * (anchor[owner] * negatives).sum(-1))
    target = torch.arange(len(anchor), device=anchor.device)
    return (F.cross_entropy(torch.cat([logits, hard], 1), target) + F.cross_entropy(logits.T, target)) / 2
