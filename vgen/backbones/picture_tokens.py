"""Pictures as the states of CLIP's vision tower, in the place of words."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil, CLIPVisionConfig

from vgen.backbones.image_model import ImageModel

USUAL = CLIPVisionConfig(image_size=224, patch_size=32)
"""CLIP ViT-B/32, whose shapes stand in where an image model has no vision tower."""


def num_picture_tokens(model: ImageModel) -> int:
    """One for each patch, and one for the whole picture."""
    tower: Any = USUAL if model.image_encoder is None else model.image_encoder.config
    return (tower.image_size // tower.patch_size) ** 2 + 1


def picture_tokens(model: ImageModel, pictures: Tensor) -> Tensor:
    """The tower's last states b n d, before its last norm and its projection, for ``pictures`` uint8 b 3 H W.

    Raises ValueError where the image model has no vision tower.
    """
    tower = model.image_encoder
    if tower is None:
        raise ValueError(
            f"this method sees pictures by CLIP, and image model {model.source or 'given'} has no "
            "image_encoder; "
            "give a backbone.path=FOLDER that holds image_encoder/ and feature_extractor/"
        )
    return _states(tower, _pixels(model, tower, pictures))


def normed_tokens(model: ImageModel, pictures: Tensor) -> Tensor:
    """The same b n d behind the tower's last norm, as its projection reads them.

    Raises ValueError where the image model has no vision tower.
    """
    states = picture_tokens(model, pictures)
    return _normed(model, states)


def unseen_tokens(model: ImageModel) -> Tensor:
    """:func:`normed_tokens` 1 n d of a picture of zeros, where the tower reads 0 for the mean colour.

    The image model has a vision tower.
    """
    tower: Any = model.image_encoder
    side = tower.config.image_size
    return _normed(model, _states(tower, torch.zeros(1, 3, side, side)))


class TokenProjection(nn.Module):
    """Tokens of a vision tower, each by one matrix as wide as words. ``nothing`` are the tokens of an unseen
    picture, once they are known."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, dim, bias=False)
        self.nothing: Tensor | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        """b n width to b n dim."""
        return self.linear(tokens)


def token_projection(model: ImageModel) -> TokenProjection:
    """For the words of the UNet; it starts as the tower's own projection where that is as wide as they
    are."""
    tower: Any = model.image_encoder
    config = USUAL if tower is None else tower.config
    out = TokenProjection(config.hidden_size, model.unet.config["cross_attention_dim"])
    if tower is not None and tower.visual_projection.weight.shape == out.linear.weight.shape:
        out.linear.load_state_dict(tower.visual_projection.state_dict())
    return out


def _normed(model: ImageModel, states: Tensor) -> Tensor:
    tower: Any = model.image_encoder
    return tower.vision_model.post_layernorm(states)


def _states(tower: Any, pixels: Tensor) -> Tensor:
    return tower(pixel_values=pixels.to(tower.device, tower.dtype)).last_hidden_state


def _pixels(model: ImageModel, tower: Any, pictures: Tensor) -> Tensor:
    """As the tower reads them, b 3 h w."""
    shown = [picture.permute(1, 2, 0).cpu().numpy() for picture in pictures]
    side = tower.config.image_size
    processor: Any = model.image_processor or CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size=side
    )
    return processor(images=shown, return_tensors="pt").pixel_values


def tower_fingerprint(model: ImageModel) -> str:
    """Changes with every weight of the tower."""
    digest = hashlib.blake2b(digest_size=8)
    state = {} if model.image_encoder is None else model.image_encoder.state_dict()
    for name, value in sorted(state.items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()
