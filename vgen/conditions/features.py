"""Structure that a clip keeps, told as feature maps: a net sees the pictures once, not at every evaluation
(T2I-Adapter, Mou et al. 2023; Follow Your Pose, Ma et al. 2024, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from vgen.backbones.conditioning import Conditioning
from vgen.backbones.image_model import ImageModel
from vgen.conditions.condition import WEIGHT, Condition, Encoded, Fields
from vgen.conditions.pictures import picture_of
from vgen.diffusion.moment import Moment
from vgen.shapes import fold, unfold
from vgen.spec import spec

AT_ONCE = 16
"""Pictures that a net sees together where nothing learns."""


@spec
class FeatureMaps(Condition):
    """``reading`` is the field that the net is shown as pictures, and the name of its maps. ``scale`` 1 is as
    trained. A row that drops it hears nothing."""

    reading: str = "pose"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale) or self.scale < 0:
            raise ValueError(
                f"the scale of feature maps must be 0 or more, got {self.scale}; 1 is as trained"
            )

    def reads(self) -> tuple[str, ...]:
        return (self.reading,)

    def louder(self, factor: float) -> FeatureMaps:
        return replace(self, scale=self.scale * factor)

    def encode(self, model: ImageModel, module: nn.Module | None, fields: Fields) -> Encoded:
        assert module is not None  # the wiring's
        height, width = _canvas(model, fields)
        pictures = picture_of(self.reading, fields[self.reading], height, width)
        if tuple(pictures.shape[-2:]) != (height, width):
            raise ValueError(
                f"{self.reading} has pictures of {pictures.shape[-2]} x {pictures.shape[-1]} px where the "
                f"clips have {height} x {width}; give them in the clips' size"
            )
        first = next(module.parameters())
        maps = _seen(module, fold(pictures).to(first))
        frames = {str(level): unfold(m, pictures.shape[1]) for level, m in enumerate(maps)}
        weight = torch.ones(len(pictures), device=first.device)
        return Encoded(clip={WEIGHT: weight}, frames=frames, null={WEIGHT: 0 * weight[:1]})

    def conditioning(
        self,
        module: nn.Module | None,
        encoded: Encoded,
        x: Tensor,
        t: Tensor,
        moment: Moment | None,
        so_far: Conditioning,
    ) -> Conditioning:
        levels = [encoded.frames[str(level)] for level in range(len(encoded.frames))]
        strength = (self.scale * encoded.clip[WEIGHT]).to(x.dtype)[:, None, None, None, None]
        maps = tuple(fold((strength * m.to(x.dtype)).expand(len(x), *m.shape[1:])) for m in levels)
        return Conditioning(features={self.reading: maps})


def _seen(module: nn.Module, pictures: Tensor) -> Sequence[Tensor]:
    """Maps n c h w by level; without gradients some pictures after others, so that what the net keeps while
    it looks does not grow with a clip."""
    if torch.is_grad_enabled():
        return module(pictures)
    parts = [module(part) for part in pictures.split(AT_ONCE)]
    return [torch.cat(level) for level in zip(*parts, strict=True)]


def _canvas(model: ImageModel, fields: Fields) -> tuple[int, int]:
    """Height and width in pixels: of the clips' latents, or of those to be drawn."""
    if "latents" in fields:
        height, width = fields["latents"].shape[-2:]
        return model.vae_factor * height, model.vae_factor * width
    _, height, width = fields["canvas"]
    return height, width
