"""Pictures as the states of CLIP's vision tower, in the place of words."""

from __future__ import annotations

import hashlib
from typing import Any

from torch import Tensor
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
    shown = [picture.permute(1, 2, 0).cpu().numpy() for picture in pictures]
    side: Any = tower.config.image_size
    processor: Any = model.image_processor or CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size=side
    )
    pixels = processor(images=shown, return_tensors="pt").pixel_values
    return tower(pixel_values=pixels.to(tower.device, tower.dtype)).last_hidden_state


def tower_fingerprint(model: ImageModel) -> str:
    """Changes with every weight of the tower."""
    digest = hashlib.blake2b(digest_size=8)
    state = {} if model.image_encoder is None else model.image_encoder.state_dict()
    for name, value in sorted(state.items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()
