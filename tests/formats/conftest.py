"""Small image models with random weights, and motion modules for them that have learnt something."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from vgen.backbones.blank import Blank, blank, blank_unet
from vgen.backbones.image_model import ImageModel
from vgen.formats.motion_names import Depth, homes, shapes

SIZES = [Blank.TOYBOX, Blank.SD15_NARROW, Blank.SDXL_NARROW]


@cache
def model(size: Blank) -> ImageModel:
    return blank(size).freeze()


@cache
def wide(levels: int) -> UNet2DConditionModel:
    """The shapes of SD 1.5, or of three of its levels, as SDXL has them; nothing is stored."""
    with torch.device("meta"):
        if levels == 4:
            return blank_unet(Blank.SD15)
        types = {"down_block_types": ("DownBlock2D",) * 3, "up_block_types": ("UpBlock2D",) * 3}
        return UNet2DConditionModel(
            block_out_channels=(320, 640, 1280),
            cross_attention_dim=768,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=80,
            **types,
        )


def modules(unet: UNet2DConditionModel, mid_block: bool, num_blocks: int = 1) -> dict[str, Tensor]:
    """A sidecar in which every tensor matters; on the device of ``unet``."""
    return dict(_modules(unet, mid_block, num_blocks))


@cache
def _modules(unet: UNet2DConditionModel, mid_block: bool, num_blocks: int) -> dict[str, Tensor]:
    draw, out, on_paper = torch.Generator().manual_seed(3), {}, unet.conv_in.weight.is_meta
    for home in homes(unet):
        if mid_block or not home.in_middle:
            for tail, shape in shapes(home.channels, Depth(num_blocks, 2)).items():
                name = f"{home.sidecar}.temporal_transformer.{tail}"
                if on_paper:
                    out[name] = torch.empty(shape, device="meta")
                else:
                    out[name] = torch.randn(shape, generator=draw) * (0.1 if len(shape) > 1 else 0.3) + (
                        "norm" in tail and tail.endswith("weight")
                    )
    return out


class Bench:
    """What the tests share; a fixture, because test modules can't import one another."""

    model = staticmethod(model)
    wide = staticmethod(wide)
    modules = staticmethod(modules)


@pytest.fixture(scope="session")
def bench() -> type[Bench]:
    return Bench


@pytest.fixture(params=SIZES, ids=lambda size: size.value)
def image_model(request) -> ImageModel:
    return model(request.param)
