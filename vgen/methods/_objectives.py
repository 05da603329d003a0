"""What a recipe minimises: each objective turns a batch into scalars, first of them ``loss``."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from vgen.backbones.image_model import Context, ImageModel
from vgen.backbones.objectives import autoencoding_loss, contrastive_loss
from vgen.backbones.video_unet import VideoUNet
from vgen.diffusion.draws import Draws
from vgen.diffusion.schedule import Prediction, Schedule, add_noise, target


@dataclass(slots=True)
class Batch:
    """What the loader gives. ``video`` uint8 b f 3 H W, or None where cached ``latents`` b f c h w and ``context``
    stand in; ``keys`` are (sample id, epoch)."""

    keys: Sequence[tuple[str, int]]
    captions: list[str]
    video: Tensor | None = None
    latents: Tensor | None = None
    context: Context | None = None
    distractors: list[str] = field(default_factory=list)

    def pixels(self, device: torch.device) -> Tensor:
        """b f 3 H W in [-1, 1], float32."""
        if self.video is None:
            raise ValueError("this objective needs pixels but the data is a latent cache; set data.cache=false")
        return self.video.to(device).float() / 127.5 - 1

    def __len__(self) -> int:
        return len(self.captions)


class Objective(ABC):
    """``loss`` sees the image model, the assembled UNet and one batch; it computes frozen parts without gradient."""

    @abstractmethod
    def loss(self, model: ImageModel, unet: VideoUNet, batch: Batch, draws: Draws) -> dict[str, Tensor]: ...


@dataclass(slots=True, kw_only=True)
class Denoising(Objective):
    """Mean squared error of the raw prediction, one timestep per clip (Ho et al. 2020, eq. 14); the text of a share of samples is dropped."""

    schedule: Schedule
    prediction: Prediction
    text_drop: float

    def loss(self, model: ImageModel, unet: VideoUNet, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        device = next(unet.parameters()).device
        with torch.no_grad():
            latents = batch.latents.to(device).float() if batch.latents is not None else model.encode(batch.pixels(device)).float()
            context = model.encode_text(batch.captions) if batch.context is None else batch.context.to(device, torch.float32)
            keep = draws.uniform("text_drop", device) >= self.text_drop
            context = context.where(keep, model.empty_text().to(device, torch.float32))
            t = draws.integers("timestep", self.schedule.num_timesteps, device)
        return {"loss": self.errors(unet, latents, t, draws.normal("noise", latents), context).mean()}

    def errors(self, unet: VideoUNet, latents: Tensor, t: Tensor, noise: Tensor, context: Context) -> Tensor:
        """Mean squared error of every clip, b."""
        alpha, sigma = self.schedule.alpha_sigma(t, latents)
        dtype = next(unet.image_unet.parameters()).dtype
        out = unet(add_noise(latents, noise, alpha, sigma).to(dtype), t, context.to(latents.device, dtype))
        return F.mse_loss(out.float(), target(self.prediction, latents, noise, alpha, sigma), reduction="none").flatten(1).mean(1)


@dataclass(slots=True, kw_only=True)
class Autoencoding(Objective):
    l1: float
    mse: float
    kl: float
    detail: float = 0.0

    def loss(self, model: ImageModel, unet: VideoUNet, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        pixels = batch.pixels(model.vae.device).flatten(0, 1)
        generator = torch.Generator().manual_seed(int(draws.integers("posterior", 2**31, torch.device("cpu"))[0]))
        return autoencoding_loss(model.vae, pixels, generator, l1=self.l1, mse=self.mse, kl=self.kl, detail=self.detail)


@dataclass(slots=True, kw_only=True)
class Agreement(Objective):
    """Contrastive agreement of a still with its caption, against the batch and one caption in which a single fact is wrong."""

    scale: float

    def loss(self, model: ImageModel, unet: VideoUNet, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        encoder, texts = model.image_encoder, model.text_encoders[0]
        pixels = batch.pixels(encoder.device)[:, 0]
        image = encoder(pixel_values=pixels).image_embeds
        captions = [*batch.captions, *(batch.distractors or batch.captions)]
        text, negatives = texts(model.tokenize(captions).to(encoder.device)).text_embeds.chunk(2)
        loss = contrastive_loss(image, text, negatives, torch.tensor(self.scale, device=image.device))
        with torch.no_grad():
            cosine = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
            own = cosine.diagonal()
            wrong = (F.normalize(image, dim=-1) * F.normalize(negatives, dim=-1)).sum(-1)
            accuracy = (cosine.argmax(1) == torch.arange(len(own), device=own.device)).float().mean()
        return {"loss": loss, "accuracy": accuracy, "hard_accuracy": (own > wrong).float().mean()}
