"""What a recipe minimises: each objective turns a batch into scalars, first of them ``loss``."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vgen.backbones.image_model import ImageModel
from vgen.conditions.condition import Fields, revealed
from vgen.conditions.context_frames import GIVEN, GivenFrames
from vgen.data.batch import Batch
from vgen.data.mixture import PRIOR
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

    def enter(self, step: int, num_steps: int) -> None:  # noqa: B027, most objectives are the same at any step
        """Called before every batch, with the optimiser steps done and those of the whole run."""

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
    - ``given_frames``: which frames of a clip are told beside the noise.
    - ``noise``: how the noises of a clip's frames belong together; None: each has its own.
    - ``keeps_first_frame``: the first frame is shown clean, and the loss is on the others.
    - ``guidance``: the loss is on the guided prediction (DreamArtist, Dong et al. 2022, eq. 4); None: on the
      plain one.
    - ``reveals``: the field of which some frames are shown, from one to all, drawn by chance (SparseCtrl, Guo
      et al. 2023). A clip without it shows its own latents.
    """

    dropout: Sequence[Drop] = field(default_factory=list)
    timestep_shift: float = 1.0
    given_frames: GivenFrames | None = None
    guidance: Guidance | None = None
    reveals: str = ""
    noise: Start | None = None
    keeps_first_frame: bool = False

    def undropped(self) -> Denoising:
        return replace(self, dropout=[])

    def loss(self, video_model: VideoModel, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        device = video_model.device
        fields = video_model.prepare(batch.fields_by_name())
        latents = fields["latents"].to(device).float()
        fields |= self._revealed(fields, latents, draws)
        video_model.refuse_lacking(fields)
        # the purpose's name is older than other things to drop: runs that were begun go on with their draws
        dropped = drawn(self.dropout, draws.uniform("text_drop", device).tolist()) if self.dropout else None
        if batch.present:
            absent = video_model.absent(batch.present, len(batch))
            dropped = [a | b for a, b in zip(absent, dropped or absent, strict=True)]
        if self.given_frames is not None:
            fields[GIVEN] = self.given_frames.drawn(draws, latents)
        num = video_model.schedule.num_timesteps
        t = shifted(draws.integers("timestep", num, device), self.timestep_shift, num)
        noise = (self.noise or Iid()).noise(draws, latents, "noise", fields)
        encoded = video_model.encode(fields)
        return self.reduced(self.errors(video_model, encoded, latents, t, noise, dropped), fields)

    def reduced(self, errors: Tensor, fields: Mapping[str, Any]) -> dict[str, Tensor]:
        """The loss out of every clip's error, b; ``fields`` are those of the batch."""
        return {"loss": errors.mean()}

    def _revealed(self, fields: Fields, latents: Tensor, draws: Draws) -> dict[str, Tensor]:
        """What is shown of some frames, and which they are; nothing where nothing is to be revealed."""
        if not self.reveals:
            return {}
        place = draws.normal("revealed", latents[:, :, 0, 0, 0]).argsort(1).argsort(1)
        num = 1 + draws.integers("num_revealed", latents.shape[1], latents.device)
        return {self.reveals: fields.get(self.reveals, latents), revealed(self.reveals): place < num[:, None]}

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


@dataclass(slots=True, kw_only=True)
class PriorPreservation(Denoising):
    """The mean error of the subject's clips, and ``prior_weight`` times that of the prior's (Ruiz et al.
    2022, eq. 2). A batch without clips of the prior has the first alone."""

    prior_weight: float = 1.0

    def reduced(self, errors: Tensor, fields: Mapping[str, Any]) -> dict[str, Tensor]:
        if PRIOR not in fields:
            return {"loss": errors.mean()}
        known = fields[PRIOR].to(errors.device)
        subject, prior = errors[~known].mean(), errors[known].mean()
        return {"loss": subject + self.prior_weight * prior, "subject": subject, PRIOR: prior}


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


def check_prior_weight(weight: float) -> None:
    """Raises ValueError for a weight that means nothing."""
    if not 0 <= weight < math.inf:
        raise ValueError(
            f"prior_weight must be 0 or more, got {weight}; 1 is the paper's, 0 preserves no prior"
        )


def share_of_text(text_drop: float) -> list[Drop]:
    """Dropout of the text alone; none at 0."""
    return [Drop(text_drop, frozenset({"text"}))] if text_drop else []


def encoded_batch(video_model: VideoModel, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
    """Latents b f c h w, and what the conditions make of a batch; without gradient."""
    with torch.no_grad():
        fields = video_model.prepare(batch.fields_by_name())
        return fields["latents"].to(video_model.device).float(), video_model.encode(fields)
