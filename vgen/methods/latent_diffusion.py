"""The image UNet itself, on stills: text-to-image latent diffusion (Rombach et al. 2022, section 3.3)."""
from __future__ import annotations

from vgen.backbones.image_model import ImageModel
from vgen.diffusion.schedule import Prediction, schedule_of
from vgen.methods._objectives import Denoising
from vgen.methods._recipe import Paper, Recipe, Regime, method
from vgen.spec import spec


@method(
    "latent_diffusion", paper=Paper("High-Resolution Image Synthesis with Latent Diffusion Models", "2112.10752", 2022),
    regime=Regime.IMAGE,
)
@spec
class LatentDiffusion(Recipe):
    """The schedule and the prediction are those of the image model's own scheduler."""

    text_drop: float = 0.1

    def objective(self, model: ImageModel) -> Denoising:
        config = model.scheduler_config
        prediction = Prediction(config.get("prediction_type", "epsilon"))
        return Denoising(schedule=schedule_of(config), prediction=prediction, text_drop=self.text_drop)

    def learns(self) -> tuple[str, ...]:
        return ("unet.image_unet.*",)
