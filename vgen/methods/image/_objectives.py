"""What the parts of an image model learn by, apart from denoising."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vgen.backbones.image_model import ImageModel
from vgen.data.batch import Batch
from vgen.diffusion.draws import Draws
from vgen.methods._objectives import Objective
from vgen.methods._video_model import VideoModel
from vgen.methods.image._losses import autoencoding_loss, contrastive_loss


@dataclass(slots=True, kw_only=True)
class Autoencoding(Objective):
    l1: float
    mse: float
    kl: float
    detail: float = 0.0

    def loss(self, video_model: VideoModel, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        model = video_model.model
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

    def loss(self, video_model: VideoModel, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        model = video_model.model
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
