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
from vgen.diffusion.schedule import (
    Prediction,
    Schedule,
    add_noise,
    prediction_of,
    schedule_of,
    shifted,
    target,
)


@dataclass(slots=True)
class Batch:
    """What the loader gives. ``video`` uint8 b f 3 H W, or None where cached ``latents`` b f c h w and
    ``context`` stand in; ``keys`` are (sample id, epoch). ``paraphrases`` say the same in other words,
    ``distractors`` are wrong in one fact, by its kind."""

    keys: Sequence[tuple[str, int]]
    captions: list[str]
    video: Tensor | None = None
    latents: Tensor | None = None
    context: Context | None = None
    paraphrases: list[str] = field(default_factory=list)
    distractors: list[dict[str, str]] = field(default_factory=list)

    def pixels(self, device: torch.device) -> Tensor:
        """b f 3 H W in [-1, 1], float32."""
        if self.video is None:
            raise ValueError(
                "this objective needs pixels but the data is a latent cache; set data.cache=false"
            )
        return self.video.to(device).float() / 127.5 - 1

    def __len__(self) -> int:
        return len(self.captions)


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


@dataclass(slots=True, kw_only=True)
class Autoencoding(Objective):
    l1: float
    mse: float
    kl: float
    detail: float = 0.0

    def loss(self, model: ImageModel, unet: VideoUNet, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        pixels = batch.pixels(model.vae.device).flatten(0, 1)
        generator = torch.Generator().manual_seed(
            int(draws.integers("posterior", 2**31, torch.device("cpu"))[0])
        )
        return autoencoding_loss(
            model.vae, pixels, generator, l1=self.l1, mse=self.mse, kl=self.kl, detail=self.detail
        )


@dataclass(slots=True, kw_only=True)
class Agreement(Objective):
    """Contrastive agreement with the right caption, against the batch and against captions in which a single
    fact is wrong: of the picture, or (``between_texts``) of the caption's paraphrase.

    Besides the loss: ``accuracy`` in the batch, and ``hard_KIND``, the share of wrong captions of that kind
    told from the right one.
    """

    scale: float
    between_texts: bool
    kinds: tuple[str, ...]

    def loss(self, model: ImageModel, unet: VideoUNet, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        pairs = [(i, kind, text) for i, wrong in enumerate(batch.distractors) for kind, text in wrong.items()]
        device = model.text_encoders[0].device
        owner = torch.tensor([i for i, _, _ in pairs], dtype=torch.long, device=device)
        others = (batch.paraphrases or batch.captions) if self.between_texts else []
        texts = self._texts(model, [*batch.captions, *(text for _, _, text in pairs), *others])
        num, end = len(batch), len(batch) + len(pairs)
        right, wrong = texts[:num], texts[num:end]
        if self.between_texts:
            anchor = texts[end:]
        else:
            assert model.image_encoder is not None  # the recipe engages it
            anchor = model.image_encoder(pixel_values=batch.pixels(device)[:, 0]).image_embeds
        out = {"loss": contrastive_loss(anchor, right, wrong, owner, self.scale)}
        return out | self._accuracies(
            anchor.detach(), right.detach(), wrong.detach(), owner, [kind for _, kind, _ in pairs]
        )

    def _texts(self, model: ImageModel, prompts: list[str]) -> Tensor:
        """Embeddings b d; padding is cut off, which a causal encoder that reads the end token cannot
        notice."""
        ids = model.tokenize(prompts)
        longest = int((ids == model.tokenizer.eos_token_id).int().argmax(1).max()) + 1
        encoder = model.text_encoders[0]
        with torch.set_grad_enabled(self.between_texts and torch.is_grad_enabled()):
            return encoder(ids[:, :longest].to(encoder.device)).text_embeds

    def _accuracies(
        self, anchor: Tensor, right: Tensor, wrong: Tensor, owner: Tensor, kinds: list[str]
    ) -> dict[str, Tensor]:
        anchor, right, wrong = (F.normalize(v.float(), dim=-1) for v in (anchor, right, wrong))
        own = (anchor * right).sum(-1)
        told = (own[owner] > (anchor[owner] * wrong).sum(-1)).float()
        out = {
            "accuracy": ((anchor @ right.T).argmax(1) == torch.arange(len(own), device=own.device))
            .float()
            .mean()
        }
        for kind in (
            self.kinds
        ):  # every kind in every batch and on every rank: a mean over processes waits for all of them
            hits = (
                told[torch.tensor([k == kind for k in kinds], dtype=torch.bool, device=told.device)]
                if kinds
                else told
            )
            out[f"hard_{kind}"] = hits.mean() if len(hits) else own.new_ones(())
        return out
