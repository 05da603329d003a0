"""Image models of the shapes of another: for counting what they take."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vgen.backbones.image_model import ImageModel


def without_weights(model: ImageModel) -> ImageModel:
    """The same parts built anew from their configurations, with fresh weights; under a FakeTensorMode they
    take no memory. What a method has put into the model's parts is not in them."""
    parts: dict[str, Any] = {"unet": _diffusers(model.unet), "vae": _diffusers(model.vae)}
    parts["text_encoders"] = [type(encoder)(encoder.config) for encoder in model.text_encoders]
    if model.image_encoder is not None:
        parts["image_encoder"] = type(model.image_encoder)(model.image_encoder.config)
    return replace(model, **parts, _empty={})


def _diffusers(part: Any) -> Any:
    return type(part).from_config(dict(part.config))
