"""A picture that a clip begins with."""

from __future__ import annotations

from torch import Tensor, nn

from vgen.backbones.conditioning import Conditioning, Prepared
from vgen.backbones.image_model import ImageModel
from vgen.conditions.condition import Condition, Encoded, Fields
from vgen.diffusion.moment import Moment
from vgen.spec import spec

FIRST = "first_latents"
"""The field that is made of ``reference``: scaled latents b 1 c h w."""


@spec
class FirstFrame(Condition):
    """Reads ``reference``, uint8 b n 3 H W, whose first picture is the first frame. It says nothing to the
    nets: drawing holds that frame at its latents."""

    def reads(self) -> tuple[str, ...]:
        return ("reference",)

    def prepare(self, model: ImageModel, fields: Fields) -> Prepared:
        if FIRST in fields:
            return Prepared()
        pixels = fields["reference"][:, :1].to(model.vae.device).float() / 127.5 - 1
        return Prepared(clip={FIRST: model.encode(pixels)})

    def fingerprint(self, model: ImageModel) -> str:
        return "latents of the reference"

    def encode(self, model: ImageModel, module: nn.Module | None, fields: Fields) -> Encoded:
        return Encoded()

    def conditioning(
        self,
        module: nn.Module | None,
        encoded: Encoded,
        x: Tensor,
        t: Tensor,
        moment: Moment | None,
        so_far: Conditioning,
    ) -> Conditioning:
        return Conditioning()
