"""Laws of the edit layer: opacity 0 is the picture itself; sizes that halve unevenly; what is too small."""

from __future__ import annotations

import pytest
import torch

from vgen.layers.edit_layer import SCREEN, EditLayer, EditLayerSpec, before_screen, colour_mixing, composed

SMALL = EditLayerSpec(num_scales=3, channels=8)


def test_opacity_decides() -> None:
    colours, under = torch.rand(2, 3, 5, 4), torch.rand(2, 3, 5, 4)
    none, full = torch.zeros(2, 1, 5, 4), torch.ones(2, 1, 5, 4)
    assert torch.equal(composed(colours, none, under), under)
    assert torch.equal(composed(colours, full, under), colours)
    screen = torch.tensor(SCREEN)[:, None, None].expand(2, 3, 5, 4)
    assert torch.equal(before_screen(colours, none), screen)


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 16), (19, 33), (27, 22)])
def test_any_size_comes_back(size: tuple[int, int]) -> None:
    colours, opacity = EditLayer(SMALL)(torch.rand(1, 3, *size))
    assert colours.shape == (1, 3, *size)
    assert opacity.shape == (1, 1, *size)
    for found in (colours, opacity):
        assert 0 <= found.min() <= found.max() <= 1


@torch.no_grad()
def test_training_and_showing_are_the_same_net() -> None:
    net, picture = EditLayer(SMALL), torch.rand(1, 3, 20, 20)
    before = net(picture)
    torch.testing.assert_close(net.eval()(picture), before)
    assert not dict(net.named_buffers())  # an adapter holds parameters alone


def test_as_many_parameters_as_released() -> None:
    """Counted on the released ``define_G`` with its image configuration."""
    with torch.device("meta"):
        net = EditLayer(EditLayerSpec())
    assert sum(p.numel() for p in net.parameters()) == COUNT


COUNT = 3_115_548


def test_mixing_keeps_the_longest_colour() -> None:
    assert colour_mixing().norm(dim=0).max() == pytest.approx(1)


def test_what_is_too_small() -> None:
    with pytest.raises(ValueError, match=r"20 x 8 px is too small for method.edit_layer.num_scales=3, which"):
        EditLayer(SMALL)(torch.rand(1, 3, 8, 20))
    with pytest.raises(ValueError, match="at least 1 scale"):
        EditLayerSpec(num_scales=0)
