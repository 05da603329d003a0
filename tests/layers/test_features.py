"""Feature maps beside a UNet, and thin convolutions over frames."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from vgen.backbones.conditioning import Conditioning, ForwardContext
from vgen.backbones.feature_net import feature_net
from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import Kind, Site, Stage
from vgen.backbones.video_unet import VideoUNet
from vgen.conditions.features import FeatureMaps
from vgen.layers.low_rank_conv import LowRankConvSpec
from vgen.methods import assemble
from vgen.methods.follow_your_pose import FollowYourPoseEncoder

SITE = Site("x", Stage.DOWN, Kind.BLOCK, 0, 0, 0, 12, 4, 2)


def conv(rank: int, frames: int) -> nn.Module:
    context = ForwardContext(num_frames=frames)
    return LowRankConvSpec(rank=rank).build(SITE, nn.Identity(), context)


def test_a_thin_convolution_is_one_matrix_over_neighbouring_frames() -> None:
    """y_i = x_i + sum over j, k of U_k D_j x_{i+j+k}, zero outside the clip."""
    torch.manual_seed(0)
    layer = conv(rank=5, frames=4).double()
    nn.init.normal_(layer.up.weight)
    x = torch.randn(2 * 4, 3, 12, dtype=torch.float64)
    clip = x.unflatten(0, (2, 4))
    thin = torch.zeros(2, 6, 3, 5, dtype=torch.float64)  # a frame more at both ends
    for i in range(4):
        for j in (-1, 0, 1):
            if 0 <= i + j < 4:
                thin[:, i + 1] += clip[:, i + j] @ layer.down.weight[:, :, j + 1].T
    wanted = clip.clone()
    for i in range(4):
        for k in (-1, 0, 1):
            wanted[:, i] += thin[:, i + 1 + k] @ layer.up.weight[:, :, k + 1].T
    torch.testing.assert_close(layer(x), wanted.flatten(0, 1))


def test_a_new_one_is_silent_and_thinner_than_its_block() -> None:
    layer = conv(rank=160, frames=2)
    x = torch.randn(4, 3, 12)
    assert torch.equal(layer(x), x)
    assert layer.down.weight.shape == (6, 12, 3), "half of twelve channels, since 160 are more than these"


def test_no_rank_is_no_convolution() -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0; the paper's is 160"):
        LowRankConvSpec(rank=0)


@pytest.fixture
def heard(tiny: ImageModel) -> VideoUNet:
    return assemble(FollowYourPoseEncoder(), tiny).unet


def pictures(frames: int = 2, rows: int = 1, side: int = 8) -> torch.Tensor:
    return torch.rand(rows, frames, 3, side, side, generator=torch.Generator().manual_seed(0))


def maps_of(tiny: ImageModel, net: nn.Module, condition: FeatureMaps, rows: int = 1) -> Conditioning:
    side = 8 * tiny.vae_factor
    shown = pictures(rows=rows, side=side)
    fields = {"source": shown, "latents": torch.zeros(rows, 2, 4, 8, 8)}
    encoded = condition.encode(tiny, net, fields)
    x = torch.zeros(rows, 2, 4, 8, 8)
    return condition.conditioning(net, encoded, x, torch.zeros(rows), None, Conditioning())


@torch.no_grad()
def test_maps_fit_every_level_and_reach_the_output(tiny: ImageModel, heard: VideoUNet) -> None:
    torch.manual_seed(0)
    net = feature_net(tiny)
    said = maps_of(tiny, net, FeatureMaps(reading="source"))
    told = Conditioning(tiny.encode_text(["a"]), features={"pose": said.features["source"]})
    x, t = torch.randn(1, 2, 4, 8, 8), torch.tensor(500)
    plain = heard(x, t, Conditioning(tiny.encode_text(["a"])))
    assert not torch.allclose(heard(x, t, told), plain)
    muted = maps_of(tiny, net, replace(FeatureMaps(reading="source"), scale=0.0))
    silent = Conditioning(tiny.encode_text(["a"]), features={"pose": muted.features["source"]})
    assert torch.equal(heard(x, t, silent), plain)


@torch.no_grad()
def test_a_row_that_drops_the_maps_hears_zeros(tiny: ImageModel) -> None:
    net, condition = feature_net(tiny), FeatureMaps(reading="source")
    side = 8 * tiny.vae_factor
    fields = {"source": pictures(rows=2, side=side), "latents": torch.zeros(2, 2, 4, 8, 8)}
    kept = condition.encode(tiny, net, fields).where(torch.tensor([True, False]))
    x = torch.zeros(2, 2, 4, 8, 8)
    said = condition.conditioning(net, kept, x, torch.zeros(2), None, Conditioning())
    for level in said.features["source"]:
        heard, dropped = level.unflatten(0, (2, 2))
        assert bool(heard.any())
        assert not bool(dropped.any())


def test_pictures_of_another_size_are_refused(tiny: ImageModel) -> None:
    fields = {"source": pictures(side=24), "latents": torch.zeros(1, 2, 4, 8, 8)}
    with pytest.raises(ValueError, match="source has pictures of 24 x 24 px where the clips have"):
        FeatureMaps(reading="source").encode(tiny, feature_net(tiny), fields)


def test_a_scale_below_zero_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"scale of feature maps must be 0 or more, got -1\.0; 1 is as trained"
    ):
        FeatureMaps(scale=-1.0)
