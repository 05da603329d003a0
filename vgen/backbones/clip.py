"""A CLIP pair that a gradient can pass: its embeddings of pictures and texts, and of a picture's patches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from vgen.backbones.pretrained import pretrained, read_part


@dataclass(slots=True)
class ClipPair:
    """Both encoders, frozen, and how they want their input. ``mean`` and ``std`` are of the three colours."""

    vision: CLIPVisionModelWithProjection
    text: CLIPTextModelWithProjection
    tokenizer: CLIPTokenizer
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def size_px(self) -> int:
        """The side of the pictures that it looks at."""
        return int(cast(Any, self.vision.config).image_size)

    def to(self, device: torch.device) -> ClipPair:
        for encoder in (self.vision, self.text):
            nn.Module.to(encoder, device)
        return self

    def pictures(self, pixels: Tensor) -> Tensor:
        """Embeddings n d, not normalised, of ``pixels`` n 3 h w in [0, 1]."""
        return self.vision(pixel_values=self._seen(pixels)).image_embeds

    def patches(self, pixels: Tensor) -> Tensor:
        """What the last block but one says of each patch, n p d, the class token first."""
        out = self.vision(pixel_values=self._seen(pixels), output_hidden_states=True)
        return out.hidden_states[-2]

    def relevance(self, pixels: Tensor, text: Tensor) -> Tensor:
        """Where a picture n 3 h w shows what a text's embedding d says, n side side from 0 to 1, without
        gradient: attention of the last block that raises their likeness (Chefer et al. 2021, Generic
        Attention-Model Explainability, equation 5)."""
        with torch.enable_grad():
            seen = self._seen(pixels).detach().requires_grad_()
            out = self.vision(pixel_values=seen, output_attentions=True)
            score = F.cosine_similarity(out.image_embeds, text, dim=-1).sum()
            last = out.attentions[-1]
            (way,) = torch.autograd.grad(score, last)
        raised = (way * last.detach()).clamp_min(0).mean(1)
        cells = raised[:, 0, 1:]  # what the class token has of each patch
        side = math.isqrt(cells.shape[-1])
        whole = F.interpolate(cells.view(-1, 1, side, side), (self.size_px,) * 2, mode="bilinear")[:, 0]
        low, high = whole.amin((1, 2), keepdim=True), whole.amax((1, 2), keepdim=True)
        return (whole - low) / (high - low).clamp_min(1e-12)

    @torch.no_grad()
    def texts(self, prompts: list[str]) -> Tensor:
        """Embeddings n d, not normalised; what is too long loses its end."""
        most = self.text.config.max_position_embeddings
        told = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=most, return_tensors="pt"
        )
        return self.text(told.input_ids.to(self.text.device)).text_embeds

    def _seen(self, pixels: Tensor) -> Tensor:
        """At its size and in its units."""
        side = self.size_px
        if pixels.shape[-2:] != (side, side):
            pixels = F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False)
        mean, std = (pixels.new_tensor(x)[:, None, None] for x in (self.mean, self.std))
        return (pixels - mean) / std


def load_clip_pair(folder: Path, named: str) -> ClipPair:
    """A transformers CLIP folder, or the pair of an image model's folder; ``named`` is the setting that gives
    it. Raises ValueError where it is neither."""
    if not folder.is_dir():
        raise ValueError(
            f"{named}={folder} is no folder; give a transformers CLIP folder (openai/clip-vit-base-patch32), "
            "or an image model with a CLIP pair"
        )
    inside = (folder / "model_index.json").is_file()
    parts = [folder / name if inside else folder for name in ("image_encoder", "text_encoder")]
    words, looks = (folder / name if inside else folder for name in ("tokenizer", "feature_extractor"))
    if not all(part.is_dir() for part in (*parts, words, looks)):
        raise ValueError(
            f"{named}={folder} is an image model without a CLIP pair; give one with image_encoder/ and "
            "feature_extractor/, or a transformers CLIP folder"
        )
    processor = read_part(CLIPImageProcessorPil, looks, named)
    return ClipPair(
        # eager attention is the one that tells its maps
        vision=pretrained(CLIPVisionModelWithProjection, parts[0], named, attn_implementation="eager"),
        text=pretrained(CLIPTextModelWithProjection, parts[1], named),
        tokenizer=read_part(CLIPTokenizer, words, named),
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
    )
