"""Frames that are given, beside x: the input of a frame interpolator (Singer et al. 2022, Make-A-Video,
section 3.2.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vgen.backbones.conditioning import Conditioning
from vgen.backbones.image_model import ImageModel
from vgen.conditions.condition import Condition, Encoded, Fields
from vgen.conditions.context_frames import shown
from vgen.diffusion.moment import Moment
from vgen.spec import spec


@spec
class MaskedFrames(Condition):
    """Says the latents of the frames that are given, zero elsewhere, and in one more channel which they are,
    as ``concat`` of the name ``beside``.

    It reads no field of a sample: training draws which frames are given, and a person hands over theirs. A
    row that drops it is told that none is given.
    """

    beside: str = "masked"

    def reads(self) -> tuple[str, ...]:
        return ()

    def encode(self, model: ImageModel, module: nn.Module | None, fields: Fields) -> Encoded:
        told = shown(model, fields)
        return Encoded(frames={self.beside: told}, null={self.beside: torch.zeros_like(told[:1, :1])})

    def conditioning(
        self,
        module: nn.Module | None,
        encoded: Encoded,
        x: Tensor,
        t: Tensor,
        moment: Moment | None,
        so_far: Conditioning,
    ) -> Conditioning:
        told = encoded.frames[self.beside].to(x)
        return Conditioning(concat={self.beside: told.expand(len(x), *told.shape[1:])})
