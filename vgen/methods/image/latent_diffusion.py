"""The image UNet itself, on stills: text-to-image latent diffusion (Rombach et al. 2022, section 3.3)."""

from __future__ import annotations

from vgen.backbones.image_model import ImageModel
from vgen.diffusion.guidance import Drop
from vgen.methods._objectives import Denoising, check_training_draws, share_of_text
from vgen.methods._recipe import Paper, Recipe, Regime, method
from vgen.spec import spec


@method(
    "latent_diffusion",
    paper=Paper("High-Resolution Image Synthesis with Latent Diffusion Models", "2112.10752", 2022),
    regime=Regime.IMAGE,
)
@spec
class LatentDiffusion(Recipe):
    """The schedule and the prediction are those of the image model's own scheduler."""

    text_drop: float = 0.1
    timestep_shift: float = 1.0

    def __post_init__(self) -> None:
        check_training_draws(self.text_drop, self.timestep_shift)

    def dropout(self) -> list[Drop]:
        return share_of_text(self.text_drop)

    def objective(self, model: ImageModel) -> Denoising:
        return Denoising(dropout=self.dropout(), timestep_shift=self.timestep_shift)

    def learns(self) -> tuple[str, ...]:
        return ("unet.image_unet.*",)
