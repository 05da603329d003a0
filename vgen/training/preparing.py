"""What a latent cache keeps: everything that is frozen and is computed from a clip alone."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn

from vgen.backbones.conditioning import Prepared
from vgen.backbones.image_model import attached
from vgen.data.encoder import ImageModelEncoder
from vgen.data.fields import NAMES, Needs
from vgen.formats.adapter import unet_fingerprint
from vgen.methods import Recipe, VideoModel


class Preparer:
    """The encoders of the image model, and what the conditions of a method prepare."""

    def __init__(self, video_model: VideoModel) -> None:
        self.video_model, self.encoders = video_model, ImageModelEncoder(video_model.model)

    def fingerprint(self) -> str:
        """Of the encoders alone where no condition prepares anything of its own: caches are shared by
        methods."""
        model = self.video_model.model
        own = ["text learns"] if model.text_learns() else []
        own += [unet_fingerprint(layer) for layer in self._inside_text()]
        own += [text for c in self.video_model.conditions.values() if (text := c.fingerprint(model))]
        if not own:
            return self.encoders.fingerprint()
        return hashlib.blake2b(
            "".join([self.encoders.fingerprint(), *own]).encode(), digest_size=16
        ).hexdigest()

    def _inside_text(self) -> list[nn.Module]:
        """The layers inside the text encoders."""
        return [layer for encoder in self.video_model.model.text_encoders for layer in attached(encoder)]

    @torch.no_grad()
    def prepare(self, fields: dict[str, Any], device: torch.device) -> Prepared:
        out = self.encoders.prepare(fields, device)
        if self.video_model.model.text_learns():  # what is encoded now would be kept for good
            for name in ("text", "pooled"):
                out.clip.pop(name, None)
        for condition in self.video_model.conditions.values():
            there = {**fields, **out.fields()}
            if all(name in there for name in condition.reads()):
                more = condition.prepare(self.video_model.model, there)
                out.clip.update(more.clip)
                out.frames.update(more.frames)
        return out


def needs_of(recipe: Recipe) -> Needs:
    """What a training of the recipe reads of every sample; names that only sampling knows are left out."""
    known = {name: spare for name, spare in recipe.reads().items() if name in NAMES}
    required = frozenset(name for name, spare in known.items() if not spare)
    return Needs(required=required | {"video"}, optional=frozenset(known) - required)
