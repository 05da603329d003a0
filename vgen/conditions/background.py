"""What lies behind a person: a ControlNet that is shown a picture's latents (DisCo, Wang et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vgen.backbones.conditioning import Prepared
from vgen.backbones.image_model import ImageModel
from vgen.conditions.condition import WEIGHT, Encoded, Fields
from vgen.conditions.control_net import ControlNet
from vgen.spec import spec

READY = "background_latents"
"""The field that is made of ``background``: scaled latents b c h w."""


@spec
class Background(ControlNet):
    """Reads one picture a clip, uint8 b n 3 H W, of which the first counts, as large as the clip; every frame
    is shown it."""

    reading: str = "background"

    def prepare(self, model: ImageModel, fields: Fields) -> Prepared:
        if READY in fields:
            return Prepared()
        pixels = fields[self.reading][:, :1].to(model.vae.device).float() / 127.5 - 1
        return Prepared(clip={READY: model.encode(pixels)[:, 0]})

    def fingerprint(self, model: ImageModel) -> str:
        return "latents of the background"

    def encode(self, model: ImageModel, module: nn.Module | None, fields: Fields) -> Encoded:
        latents = fields[READY]
        num_frames, height, width = _canvas(model, fields, latents)
        if tuple(latents.shape[-2:]) != (height, width):
            factor = model.vae_factor
            found, wanted = ([factor * n for n in sides] for sides in (latents.shape[-2:], (height, width)))
            raise ValueError(
                f"{self.reading} is {found[0]} x {found[1]} px where the clips are {wanted[0]} x "
                f"{wanted[1]}; give a picture of the clips' size"
            )
        shown = latents[:, None].expand(-1, num_frames, -1, -1, -1)
        weight = torch.ones(len(latents), device=latents.device)
        return Encoded(clip={WEIGHT: weight}, frames={"pictures": shown}, null={WEIGHT: 0 * weight[:1]})


def _canvas(model: ImageModel, fields: Fields, latents: Tensor) -> tuple[int, int, int]:
    """Frames, height and width of the clips in latent cells; one frame of the picture's own where nothing
    says them."""
    if "latents" in fields:
        _, num_frames, _, height, width = fields["latents"].shape
        return num_frames, height, width
    if "canvas" in fields:
        num_frames, height, width = fields["canvas"]
        return num_frames, height // model.vae_factor, width // model.vae_factor
    return 1, latents.shape[-2], latents.shape[-1]
