"""Which norms pool over frames, and what pooling is."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from vgen.backbones.blank import Blank, blank_unet
from vgen.backbones.conditioning import ForwardContext
from vgen.backbones.video_unet import VideoUNet
from vgen.layers.norm import ClipStatistics, pool_image_norms


@pytest.mark.parametrize(("size", "norms"), [(Blank.TOYBOX, None), (Blank.SD15, 45)])
def test_only_norms_outside_of_spatial_transformers_pool(size: Blank, norms: int | None) -> None:
    """Two for each of Stable Diffusion's 22 residual blocks, and the last one."""
    with torch.device("meta"):
        unet = blank_unet(size)
    video = VideoUNet(unet)
    pool_image_norms(video)
    every = {path for path, module in unet.named_modules() if isinstance(module, nn.GroupNorm)}
    hooked = {path for path in every if unet.get_submodule(path)._forward_pre_hooks}
    transformers = {p for p, module in unet.named_modules() if isinstance(module, Transformer2DModel)}
    assert every - hooked == {f"{path}.norm" for path in transformers} != set()
    assert norms in (None, len(hooked))
    video.eject()
    assert not any(unet.get_submodule(path)._forward_pre_hooks for path in every)


def test_pooled_statistics_are_those_of_a_tall_picture() -> None:
    """Frames under one another in one picture have the clip's statistics."""
    frames, norm = ForwardContext(num_frames=3), nn.GroupNorm(2, 4)
    scope = ClipStatistics(frames)
    x = torch.randn(2 * 3, 4, 5, 5)
    (shown,) = scope.before(norm, (x,))
    pooled = scope.after(norm, (), norm(shown))
    tall = norm(x.unflatten(0, (2, 3)).transpose(1, 2).flatten(2, 3)).unflatten(2, (3, 5))
    torch.testing.assert_close(pooled, tall.transpose(1, 2).flatten(0, 1))
