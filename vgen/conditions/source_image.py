"""The clip that is edited, as latents beside x (Brooks et al. 2023, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vgen.backbones.conditioning import Conditioning, Prepared
from vgen.backbones.image_model import ImageModel
from vgen.conditions.condition import Condition, Encoded, Fields
from vgen.diffusion.moment import Moment
from vgen.spec import spec

READY = "source_latents"
"""The field that is made of ``source``."""


@spec
class SourceImage(Condition):
    """Reads ``source``, uint8 b f 3 H W; says its latents, not scaled, as ``concat`` of the name ``beside``.

    A row that drops it reads zeros.
    """

    beside: str = "image"

    def reads(self) -> tuple[str, ...]:
        return ("source",)

    def prepare(self, model: ImageModel, fields: Fields) -> Prepared:
        """``source_latents`` b f c h w: the posterior's mode, which the released code leaves unscaled."""
        if READY in fields:
            return Prepared()
        pixels = fields["source"].to(model.vae.device).float() / 127.5 - 1
        return Prepared(frames={READY: model.unscaled(model.encode(pixels))})

    def fingerprint(self, model: ImageModel) -> str:
        return "latents of the source, not scaled"

    def encode(self, model: ImageModel, module: nn.Module | None, fields: Fields) -> Encoded:
        latents = fields[READY]
        return Encoded(frames={"latents": latents}, null={"latents": torch.zeros_like(latents[:1, :1])})

    def conditioning(
        self,
        module: nn.Module | None,
        encoded: Encoded,
        x: Tensor,
        t: Tensor,
        moment: Moment | None,
        so_far: Conditioning,
    ) -> Conditioning:
        return Conditioning(concat={self.beside: encoded.frames["latents"].to(x)})
