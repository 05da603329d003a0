"""Temporal attention beside attn1: silent at birth, a copy of attn1 behind its convolution, of the published
size."""

from __future__ import annotations

import pytest
import torch

from vgen.attention.processor import route
from vgen.backbones.blank import Blank, blank_unet
from vgen.backbones.conditioning import Conditioning, ForwardContext
from vgen.backbones.image_model import Context, ImageModel
from vgen.backbones.sites import Kind, Stage, after, sites
from vgen.backbones.video_unet import VideoUNet
from vgen.layers.parallel_attention import ParallelAttention, ParallelAttentionSpec

BESIDE = after(Kind.ATTN1, stages=[Stage.DOWN, Stage.UP])


def inserted(unet: VideoUNet) -> list[ParallelAttention]:
    for site in [s for s in sites(unet.guest) if BESIDE(s)]:
        module = unet.guest.get_submodule(site.path)
        unet.insert(site.path, ParallelAttentionSpec().build(site, module, unet.context))
    return list(unet.inserted.values())


def test_as_many_parameters_as_published() -> None:
    """At 15 sites of SD-1.5, none of them in the middle block."""
    with torch.device("meta"):
        layers = inserted(VideoUNet(blank_unet(Blank.SD15)))
        temporal = sum(p.numel() for layer in layers for p in layer.attn_temp.parameters())
        convolutions = sum(p.numel() for layer in layers for p in layer.conv_temp.parameters())
    assert (len(layers), temporal, convolutions) == (15, 43_019_200, 10_763_200)


@torch.no_grad()
def test_it_is_silent_at_birth_and_mixes_frames_when_it_speaks(tiny: ImageModel) -> None:
    x, t = torch.randn(2, 3, 4, 8, 8), torch.tensor([7, 700])
    text = Conditioning(Context(torch.randn(2, 8, 32)))
    unet = VideoUNet(tiny.unet)
    route(unet)
    plain = unet(x, t, text)
    layers = inserted(unet)
    torch.testing.assert_close(unet(x, t, text), plain)
    for layer in layers:
        torch.nn.init.normal_(layer.conv_temp.weight, std=0.2)
    heard = unet(x, t, text)
    other = x.clone()
    other[:, 2] += 1
    assert not torch.allclose(heard, plain)
    assert not torch.allclose(unet(x, t, text)[:, 0], unet(other, t, text)[:, 0])
    torch.testing.assert_close(unet(x.flip(0), t.flip(0), Conditioning(text.text()[[1, 0]])), heard.flip(0))
    unet.eject()


@torch.no_grad()
def test_of_one_frame_it_is_the_value_projection_of_attn1(tiny: ImageModel) -> None:
    """Attention over a single frame hands on its value; behind an identity it is attn1's own output layer of
    it."""
    (site, *_) = [s for s in sites(tiny.unet) if BESIDE(s)]
    attn1 = tiny.unet.get_submodule(site.path)
    context = ForwardContext(num_frames=1)
    layer = ParallelAttentionSpec().build(site, attn1, context)
    torch.nn.init.eye_(layer.conv_temp.weight[..., 0, 0])
    hidden, out = torch.randn(2, 5, site.channels), torch.randn(2, 5, site.channels)
    torch.testing.assert_close(layer(out, hidden), out + attn1.to_out[0](attn1.to_v(hidden)))


def test_elsewhere_than_beside_a_self_attention_it_is_refused(tiny: ImageModel) -> None:
    site = next(s for s in sites(tiny.unet) if s.kind is Kind.FF)
    with pytest.raises(
        ValueError, match=r"copies a self-attention, got ff at .*; insert it at sites of kind"
    ):
        ParallelAttentionSpec().build(site, tiny.unet.get_submodule(site.path), ForwardContext())
