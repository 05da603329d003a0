"""Layers over frames that are mixed with their site: silent at birth, and Stable Video Diffusion's own."""

from __future__ import annotations

import pytest
import torch

from vgen.backbones.conditioning import Conditioning, ForwardContext
from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import Kind, after
from vgen.layers.mixed_attention import MixedAttentionSpec
from vgen.layers.mixed_conv import MixedConvSpec
from vgen.layers.mixing import MixedLayer, Mixing
from vgen.layers.pseudo3d import PseudoConvSpec
from vgen.methods import assemble
from vgen.methods._assembly import add
from vgen.methods._recipe import Insertion, Recipe
from vgen.methods._video_model import VideoModel


class Halved(MixedLayer):
    """A branch over frames that is ten."""

    def forward(self, x: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        return self.mixed(x, torch.full_like(x, 10.0))


@pytest.mark.parametrize(
    ("factor", "share"), [(1.0, 1.0), (0.25, 0.25), (1.25, 0.75), (-0.25, 0.25), (0.0, 0.0)]
)
def test_a_share_that_leaves_its_interval_is_reflected(factor: float, share: float) -> None:
    layer = Halved(Mixing.SHARE, ForwardContext())
    layer.mix_factor.data.fill_(factor)
    assert layer.alpha().item() == pytest.approx(share)
    assert layer(torch.zeros(1)).item() == pytest.approx(10 * (1 - share))


@pytest.mark.parametrize(("mixing", "share"), [(Mixing.SIGMOID, 0.6225), (Mixing.SIGMOID_OF_FRAMES, 0.5)])
def test_stable_video_diffusions_shares_at_birth(mixing: Mixing, share: float) -> None:
    assert Halved(mixing, ForwardContext()).alpha().item() == pytest.approx(share, abs=1e-4)


def test_a_share_of_one_gets_a_gradient_on_either_side() -> None:
    layer = Halved(Mixing.SHARE, ForwardContext())
    for factor, slope in ((1.0, 1.0), (1.1, -1.0), (0.9, 1.0)):
        layer.mix_factor.data.fill_(factor)
        layer.mix_factor.grad = None
        layer.alpha().sum().backward()
        assert layer.mix_factor.grad is not None
        assert layer.mix_factor.grad.item() == slope


def with_layers(model: ImageModel, *insertions: Insertion) -> VideoModel:
    torch.manual_seed(0)
    video_model = assemble(Recipe(), model)
    add(video_model, insertions)
    return video_model


CONVOLUTIONS = [after(Kind.CONV_IN), after(Kind.CONV_OUT)]
MIXED = [Insertion(after(Kind.RESNET), MixedConvSpec()), Insertion(after(Kind.BLOCK), MixedAttentionSpec())]
PSEUDO = [Insertion(where, PseudoConvSpec()) for where in CONVOLUTIONS]


def clip(model: ImageModel, frames: int = 3) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    x = torch.randn(2, frames, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([7, 700]), Conditioning(model.encode_text(["a red circle", "two blue squares"]))


@pytest.mark.parametrize("insertions", [MIXED, PSEUDO], ids=["alpha 1", "dirac"])
@torch.no_grad()
def test_born_silent_to_the_bit(tiny: ImageModel, insertions: list[Insertion]) -> None:
    x, t, said = clip(tiny)
    bare = assemble(Recipe(), tiny).unet
    before = bare(x, t, said)
    bare.eject()
    assert torch.equal(with_layers(tiny, *insertions).unet(x, t, said), before)


@torch.no_grad()
def test_a_still_goes_through_convolutions_over_frames_as_it_is(tiny: ImageModel) -> None:
    x, t, said = clip(tiny, frames=1)
    unet = with_layers(tiny, *PSEUDO).unet
    before = unet(x, t, said)
    for p in unet.inserted.parameters():
        torch.nn.init.normal_(p)
    assert torch.equal(unet(x, t, said), before)


def test_layers_stand_where_they_belong(tiny: ImageModel) -> None:
    with pytest.raises(ValueError, match="behind a residual block, got block at"):
        with_layers(tiny, Insertion(after(Kind.BLOCK), MixedConvSpec()))
    with pytest.raises(ValueError, match="behind a transformer block, got resnet at"):
        with_layers(tiny, Insertion(after(Kind.RESNET), MixedAttentionSpec()))
    with pytest.raises(ValueError, match="must divide the 32 channels"):
        with_layers(tiny, Insertion(after(Kind.BLOCK), MixedAttentionSpec(heads=5)))
    with pytest.raises(ValueError, match="name sites of kind conv"):
        with_layers(tiny, Insertion(after(Kind.BLOCK), PseudoConvSpec()))
    with pytest.raises(ValueError, match="odd kernel"):
        PseudoConvSpec(kernel=2)
    with pytest.raises(ValueError, match="at least 1, or 0"):
        MixedAttentionSpec(heads=-1)
