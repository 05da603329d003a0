"""What the loader gives to an objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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

    def pixels(self, device: torch.device) -> Tensor:
        """b f 3 H W in [-1, 1], float32."""
        if self.video is None:
            raise ValueError(
                "this objective needs pixels but the data is a latent cache; set data.cache=false"
            )
        return self.video.to(device).float() / 127.5 - 1

    def __len__(self) -> int:
        return len(self.captions)
