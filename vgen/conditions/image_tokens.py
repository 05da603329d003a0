"""A picture in the text's place: its tokens own the cross-attention (Xu et al. 2023, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vgen.backbones.conditioning import Conditioning
from vgen.backbones.image_model import Context, ImageModel
from vgen.backbones.see_coder import SeeCoder
from vgen.conditions.condition import Condition, Encoded, Fields
from vgen.conditions.text import Text
from vgen.diffusion.moment import Moment
from vgen.spec import spec


@spec
class ImageTokens(Condition):
    """Reads one picture per clip, uint8 b 1 3 H W. A row that drops it hears zeros."""

    reading: str = "reference"

    def reads(self) -> tuple[str, ...]:
        return (self.reading,)

    def stands_for(self, other: Condition) -> bool:
        """No text is heard beside it."""
        return isinstance(other, Text)

    def encode(self, model: ImageModel, module: nn.Module | None, fields: Fields) -> Encoded:
        assert isinstance(module, SeeCoder)  # the wiring's
        pictures = fields[self.reading]
        self._refuse(pictures, module.least_px)
        first = next(module.parameters())
        tokens = module(pictures[:, 0].to(first) / 255)
        return Encoded(clip={"text": tokens}, null={"text": torch.zeros_like(tokens[:1])})

    def _refuse(self, pictures: Tensor, least_px: int) -> None:
        """Raises ValueError where it is not one picture, or one without room for a window."""
        num, height, width = (pictures.shape[axis] for axis in (1, 3, 4))
        if num != 1:
            raise ValueError(
                f"{self.reading} shows {num} pictures where one is read; give one picture, or "
                f"{self.reading}.of=VIDEO for the middle frame of a video"
            )
        if min(height, width) < least_px:
            raise ValueError(
                f"{self.reading} is {height} x {width} px, and one window of the encoder is "
                f"{least_px} x {least_px}; give a picture, and clips, of at least that size"
            )

    def conditioning(
        self,
        module: nn.Module | None,
        encoded: Encoded,
        x: Tensor,
        t: Tensor,
        moment: Moment | None,
        so_far: Conditioning,
    ) -> Conditioning:
        return Conditioning(crossattn=Context(encoded.clip["text"]))
