"""What a recipe minimises: each objective turns a batch into scalars, first of them ``loss``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vgen.backbones.image_model import Context, ImageModel
from vgen.backbones.video_unet import VideoUNet
from vgen.data.batch import Batch
from vgen.diffusion.draws import Draws
from vgen.diffusion.schedule import (
    Prediction,
    Schedule,
    add_noise,
    prediction_of,
    schedule_of,
    shifted,
    target,
)


class Objective(ABC):
    """``loss`` sees the image model, the assembled UNet and one batch; it computes frozen parts without
    gradient."""

    def begin(self, model: ImageModel) -> None:  # noqa: B027, most objectives have nothing to remember
        """Called once, with the model as it was loaded: before a checkpoint is restored and before anything
        learns."""

    @abstractmethod
    def loss(self, model: ImageModel, unet: VideoUNet, batch: Batch, draws: Draws) -> dict[str, Tensor]: ...


@dataclass(slots=True, kw_only=True)
class Denoising(Objective):
    """Mean squared error of the raw prediction, one timestep per clip (Ho et al. 2020, eq. 14); the text of a
    share of clips is dropped.

    ``timestep_shift`` above 1 draws noisy timesteps more often, where layout, count and motion are decided; 1
    is uniform."""

    schedule: Schedule
    prediction: Prediction
    text_drop: float
    timestep_shift: float = 1.0

    def loss(self, model: ImageModel, unet: VideoUNet, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        device = next(unet.parameters()).device
        with torch.no_grad():
            latents = (
                batch.latents.to(device).float()
                if batch.latents is not None
                else model.encode(batch.pixels(device)).float()
            )
            keep = draws.uniform("text_drop", device) >= self.text_drop
            num = self.schedule.num_timesteps
            t = shifted(draws.integers("timestep", num, device), self.timestep_shift, num)
            context = self.context(model, batch, device, keep)
        return {"loss": self.errors(unet, latents, t, draws.normal("noise", latents), context).mean()}

    @torch.no_grad()
    def context(
        self, model: ImageModel, batch: Batch, device: torch.device, keep: Tensor | None = None
    ) -> Context:
        """The batch's text, one row per clip; rows where ``keep`` (b, bool) is False hold the empty
        prompt."""
        context = (model.encode_text(batch.captions) if batch.context is None else batch.context).to(
            device, torch.float32
        )
        return context if keep is None else context.where(keep, model.empty_text().to(device, torch.float32))

    def errors(self, unet: VideoUNet, latents: Tensor, t: Tensor, noise: Tensor, context: Context) -> Tensor:
        """Mean squared error of every clip, b."""
        alpha, sigma = self.schedule.alpha_sigma(t, latents)
        dtype = next(unet.image_unet.parameters()).dtype
        out = unet(add_noise(latents, noise, alpha, sigma).to(dtype), t, context.to(latents.device, dtype))
        return (
            F.mse_loss(out.float(), target(self.prediction, latents, noise, alpha, sigma), reduction="none")
            .flatten(1)
            .mean(1)
        )


def check_training_draws(text_drop: float, timestep_shift: float) -> None:
    """Refuses knobs of :class:`Denoising` that mean nothing, when a recipe is made: before any model is
    loaded."""
    if not 0 <= text_drop <= 1:
        raise ValueError(f"text_drop is a probability, got {text_drop}; the usual value is 0.1")
    if not 0 < timestep_shift < float("inf"):
        raise ValueError(
            f"timestep_shift must be above 0, got {timestep_shift}; 1 is uniform, 3 draws mostly noisy "
            "timesteps"
        )


def denoising_as_trained(model: ImageModel, text_drop: float = 0.0, timestep_shift: float = 1.0) -> Denoising:
    """The image model's own schedule and prediction, as its scheduler's configuration states them."""
    config = model.scheduler_config
    return Denoising(
        schedule=schedule_of(config),
        prediction=prediction_of(config),
        text_drop=text_drop,
        timestep_shift=timestep_shift,
    )
