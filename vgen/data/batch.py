"""What the loader gives to an objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vgen.backbones.image_model import Context


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

    def fields_by_name(self) -> dict[str, Any]:
        """What a model listens to: captions, video and further fields; from a cache, latents and text."""
        out: dict[str, Any] = {"caption": self.captions}
        if self.video is not None:
            out["video"] = self.video
        if self.latents is not None:
            out["latents"] = self.latents
        if self.context is not None:
            out["text"] = self.context.tokens
        if self.context is not None and self.context.pooled is not None:
            out["pooled"] = self.context.pooled
        return out

    def pixels(self, device: torch.device) -> Tensor:
        """b f 3 H W in [-1, 1], float32."""
        if self.video is None:
            raise ValueError(
                "this objective needs pixels but the data is a latent cache; set data.cache=false"
            )
        return self.video.to(device).float() / 127.5 - 1

    def __len__(self) -> int:
        return len(self.captions)
