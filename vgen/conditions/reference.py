"""A picture of what is to be shown, in the place of words (DreamPose, Karras et al. 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vgen.backbones.conditioning import Conditioning, Prepared
from vgen.backbones.image_model import Context, ImageModel
from vgen.backbones.picture_tokens import normed_tokens, picture_tokens, tower_fingerprint
from vgen.backbones.reference_adapter import ReferenceAdapter
from vgen.conditions.condition import Condition, Encoded, Fields
from vgen.diffusion.moment import Moment
from vgen.spec import spec

TOKENS, LATENTS = "reference_tokens", "reference_latents"
"""The fields that are made of ``reference``: CLIP's states b n d, and scaled latents b c h w."""


@spec
class Reference(Condition):
    """Owns the cross-attention. Reads ``reference``, uint8 b n 3 H W, of which the first picture counts.

    ``height_px`` and ``width_px`` are the size in which the VAE sees it; 0 is the image model's own. A row
    that drops it sees a black picture. CLIP's states are read before the tower's last norm, as the released
    code does, or behind it (``normed``), where the tower's are much larger than words are.
    """

    height_px: int = 0
    width_px: int = 0
    normed: bool = False

    def __post_init__(self) -> None:
        if min(self.height_px, self.width_px) < 0:
            raise ValueError(
                f"a reference's size must not be negative, got {self.height_px} x {self.width_px} px; 0 is "
                "the image model's own"
            )

    def size(self, model: ImageModel) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height_px or model.size_px, self.width_px or model.size_px

    def reads(self) -> tuple[str, ...]:
        return ("reference",)

    def prepare(self, model: ImageModel, fields: Fields) -> Prepared:
        """``reference_tokens`` and ``reference_latents``, the posterior's mean."""
        if TOKENS in fields:
            return Prepared()
        tokens, latents = self._seen(model, fields["reference"][:, 0])
        return Prepared(clip={TOKENS: tokens, LATENTS: latents})

    def fingerprint(self, model: ImageModel) -> str:
        behind = " normed" if self.normed else ""
        return f"reference {self.size(model)}{behind} {tower_fingerprint(model)}"

    def encode(self, model: ImageModel, module: nn.Module | None, fields: Fields) -> Encoded:
        assert isinstance(module, ReferenceAdapter)  # the wiring's
        if module.nothing is None:
            with torch.no_grad():
                black = torch.zeros(1, 3, *self.size(model), dtype=torch.uint8)
                module.nothing = self._seen(model, black)
        weight = module.linear1.weight
        said, unsaid = (
            module(*(x.to(weight) for x in seen))
            for seen in ((fields[TOKENS], fields[LATENTS]), module.nothing)
        )
        return Encoded(clip={"tokens": said}, null={"tokens": unsaid})

    def conditioning(
        self,
        module: nn.Module | None,
        encoded: Encoded,
        x: Tensor,
        t: Tensor,
        moment: Moment | None,
        so_far: Conditioning,
    ) -> Conditioning:
        return Conditioning(crossattn=Context(encoded.clip["tokens"]))

    def _seen(self, model: ImageModel, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """What CLIP and the VAE make of ``pictures`` uint8 b 3 H W."""
        see = normed_tokens if self.normed else picture_tokens
        tokens = see(model, pictures)
        pixels = pictures.to(model.vae.device).float() / 127.5 - 1
        if pixels.shape[-2:] != self.size(model):
            pixels = F.interpolate(pixels, self.size(model), mode="bicubic", antialias=True).clamp(-1, 1)
        return tokens, model.encode(pixels[:, None])[:, 0]
