"""What a recipe minimises: each objective turns a batch into scalars, first of them ``loss``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vgen.backbones.image_model import ImageModel
from vgen.data.batch import Batch
from vgen.diffusion.draws import Draws
from vgen.diffusion.guidance import NOTHING, Drop, Dropped, Guidance, drawn
from vgen.diffusion.schedule import add_noise, shifted, target
from vgen.diffusion.start import Iid, Start
from vgen.methods._video_model import Encodings, VideoModel


class Objective(ABC):
    """``loss`` sees the assembled model and one batch; it computes frozen parts without gradient."""

    def begin(self, model: ImageModel) -> None:  # noqa: B027, most objectives have nothing to remember
        """Called once, with the model as it was loaded: before a checkpoint is restored and before anything
        learns."""

    def undropped(self) -> Objective:
        """The same, hearing everything: a condition that is dropped would hide a path from pre-flight."""
        return self

    @abstractmethod
    def loss(self, video_model: VideoModel, batch: Batch, draws: Draws) -> dict[str, Tensor]: ...


@dataclass(slots=True, kw_only=True)
class Denoising(Objective):
    """Mean squared error of the raw prediction, one timestep per clip (Ho et al. 2020, eq. 14).

    - ``dropout``: what shares of the clips do not hear.
    - ``timestep_shift`` above 1 draws noisy timesteps more often, where layout, count and motion are decided;
      1
      is uniform.
    - ``noise``: how the noises of a clip's frames belong together; None: each has its own.
    - ``keeps_first_frame``: the first frame is shown clean, and the loss is on the others.
    - ``guidance``: the loss is on the guided prediction (DreamArtist, Dong et al. 2022, eq. 4); None: on the
      plain one.
    """

    dropout: Sequence[Drop] = field(default_factory=list)
    timestep_shift: float = 1.0
    guidance: Guidance | None = None
    noise: Start | None = None
    keeps_first_frame: bool = False

    def undropped(self) -> Denoising:
        return replace(self, dropout=[])

    def loss(self, video_model: VideoModel, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        device = video_model.device
        fields = video_model.prepare(batch.fields_by_name())
        video_model.refuse_lacking(fields)
        latents = fields["latents"].to(device).float()
        # the purpose's name is older than other things to drop: runs that were begun go on with their draws
        dropped = drawn(self.dropout, draws.uniform("text_drop", device).tolist()) if self.dropout else None
        if batch.present:
            absent = video_model.absent(batch.present, len(batch))
            dropped = [a | b for a, b in zip(absent, dropped or absent, strict=True)]
        num = video_model.schedule.num_timesteps
        t = shifted(draws.integers("timestep", num, device), self.timestep_shift, num)
        noise = (self.noise or Iid()).noise(draws, latents, "noise", fields)
        encoded = video_model.encode(fields)
        return {"loss": self.errors(video_model, encoded, latents, t, noise, dropped).mean()}

    def errors(
        self,
        video_model: VideoModel,
        encoded: Encodings,
        latents: Tensor,
        t: Tensor,
        noise: Tensor,
        dropped: Sequence[Dropped] | None = None,
    ) -> Tensor:
        """Mean squared error of every clip, b; ``dropped`` None: all is heard."""
        alpha, sigma = video_model.schedule.alpha_sigma(t, latents)
        x = add_noise(latents, noise, alpha, sigma)
        first = int(self.keeps_first_frame)
        if first >= x.shape[1]:
            raise ValueError(
                "the first frame is shown clean, and a clip of one frame leaves nothing to learn; set "
                "data.window.num_frames=2 or more"
            )
        x = torch.cat([latents[:, :first], x[:, first:]], 1) if first else x
        if self.guidance is None:
            out = video_model.predict(encoded, dropped or [NOTHING] * len(x), x, t)
        else:
            out = video_model.predict_guided(encoded, self.guidance, x, t)
        wanted = target(video_model.prediction, latents, noise, alpha, sigma)
        return F.mse_loss(out, wanted, reduction="none")[:, first:].flatten(1).mean(1)


@dataclass(slots=True, kw_only=True)
class Reconstruction(Objective):
    """Mean squared error of what the VAE makes of its own latents, clamped to [-1, 1]. Its encoder is
    frozen."""

    def loss(self, video_model: VideoModel, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        model = video_model.model
        pixels = batch.pixels(model.vae.device)
        with torch.no_grad():
            latents = model.encode(pixels)
        return {"loss": F.mse_loss(model.decode(latents).float(), pixels)}


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


def share_of_text(text_drop: float) -> list[Drop]:
    """Dropout of the text alone; none at 0."""
    return [Drop(text_drop, frozenset({"text"}))] if text_drop else []


def encoded_batch(video_model: VideoModel, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
    """Latents b f c h w, and what the conditions make of a batch; without gradient."""
    with torch.no_grad():
        fields = video_model.prepare(batch.fields_by_name())
        return fields["latents"].to(video_model.device).float(), video_model.encode(fields)
