"""What the frozen encoders of an image model make of fields: latents and text embeddings."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from vgen.backbones.conditioning import Prepared
from vgen.backbones.image_model import ImageModel

_PIXELS_AT_ONCE = {"cuda": 2**23, "cpu": 2**18}
"""What is read before it is encoded, by device: 32 pictures of 512 px or 2048 of 64 px for a GPU, 64 of 64 px
for a CPU."""
_UNITS = ("shift_factor", "latents_mean", "latents_std")


def pixels_at_once(device: torch.device) -> int:
    """What is read before it is encoded."""
    return _PIXELS_AT_ONCE.get(device.type, _PIXELS_AT_ONCE["cuda"])


def encoders_fingerprint(model: ImageModel) -> str:
    """Hash of every weight of the VAE and the text encoders, and of the latent scale."""
    units: list[Any] = [model.vae.config["scaling_factor"], model.tokenizer.model_max_length]
    units += [model.vae.config[name] for name in _UNITS if model.vae.config[name] is not None]
    digest = hashlib.blake2b(json.dumps(units).encode(), digest_size=16)
    for module in (model.vae, *model.text_encoders):
        for name, value in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


class ImageModelEncoder:
    """The VAE and the text encoders of an image model: ``latents`` of every frame, ``text`` and perhaps
    ``pooled`` of every caption, float16 on the CPU."""

    def __init__(self, model: ImageModel) -> None:
        self.model = model

    def fingerprint(self) -> str:
        return encoders_fingerprint(self.model)

    @torch.no_grad()
    def prepare(self, fields: dict[str, Any], device: torch.device) -> Prepared:
        for encoder in (self.model.vae, *self.model.text_encoders):
            encoder.to(device)
        out = Prepared()
        if "video" in fields:
            out.frames["latents"] = self._latents(fields["video"], device)
        if "caption" in fields:
            context = self.model.encode_text(fields["caption"])
            out.clip["text"] = context.tokens.half().cpu()
            if context.pooled is not None:
                out.clip["pooled"] = context.pooled.half().cpu()
        return out

    def _latents(self, video: torch.Tensor, device: torch.device) -> torch.Tensor:
        """b f c h w; frames are made floats a few at a time."""
        frames = video.flatten(0, 1)  # (b f) 3 H W
        chunk = max(1, pixels_at_once(device) // (frames.shape[2] * frames.shape[3]))
        parts = [
            self.model.encode((part.to(device).float() / 127.5 - 1)[None], chunk=chunk)[0].half().cpu()
            for part in frames.split(chunk)
        ]
        return torch.cat(parts).unflatten(0, video.shape[:2])
