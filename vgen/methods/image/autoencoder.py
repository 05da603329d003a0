"""The image model's VAE: reconstruction in pixels, a lightly regularised latent (Rombach et al. 2022, section
3.1).

Differs from the paper in having no perceptual and no adversarial term: the toybox has exact edges and needs
neither.
"""

from __future__ import annotations

from vgen.backbones.image_model import ImageModel
from vgen.methods._recipe import Conditioned, Paper, Recipe, Regime, method
from vgen.methods.image._objectives import Autoencoding
from vgen.spec import spec


@method(
    "autoencoder",
    paper=Paper("High-Resolution Image Synthesis with Latent Diffusion Models", "2112.10752", 2022),
    regime=Regime.IMAGE,
)
@spec
class Autoencoder(Recipe):
    """Weights of the terms. ``decoder_only`` leaves the encoder and every latent as they were: a UNet trained
    on them still fits."""

    l1: float = 1.0
    mse: float = 4.0
    kl: float = 1e-7
    detail: float = 4.0
    decoder_only: bool = False

    def conditions(self) -> dict[str, Conditioned]:
        return {}

    def objective(self, model: ImageModel) -> Autoencoding:
        return Autoencoding(l1=self.l1, mse=self.mse, kl=self.kl, detail=self.detail)

    def learns(self) -> tuple[str, ...]:
        return ("vae.decoder.*", "vae.post_quant_conv.*") if self.decoder_only else ("vae.*",)
