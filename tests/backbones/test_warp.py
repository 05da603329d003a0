"""Warping by flow in torch: no motion is no change, and what is hidden is found."""

from __future__ import annotations

import pytest
import torch

from vgen.backbones.warp import hidden, motion, moved, softened


def shift(across: float, down: float, size: int = 8) -> torch.Tensor:
    return torch.tensor([float(across), float(down)]).view(1, 2, 1, 1).expand(1, 2, size, size).clone()


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_no_motion_is_no_change(mode: str) -> None:
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(moved(x, shift(0, 0), mode=mode), x)


def test_a_flow_says_where_a_pixel_was() -> None:
    x = torch.rand(1, 3, 8, 8)
    found = moved(x, shift(2, -1))
    torch.testing.assert_close(found[..., 1:, :6], x[..., :7, 2:])
    assert found[..., 0, :].abs().max() < 1e-6, "from outside comes nothing"
    edge = moved(x, shift(2, 0), outside="border")
    torch.testing.assert_close(edge[..., 7], x[..., 7])


@pytest.mark.parametrize("flow", [torch.zeros(1, 2, 4, 8), torch.zeros(1, 8, 8, 2), torch.zeros(2, 8, 8)])
def test_a_flow_of_another_size_is_refused(flow: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"flow must be b 2 h w of the picture's size 8 x 8, got shape"):
        moved(torch.zeros(1, 3, 8, 8), flow)


def test_there_and_back_leaves_nothing_hidden() -> None:
    inner = hidden(shift(2, 0), shift(-2, 0))[..., :6]
    assert not inner.any()
    assert hidden(shift(2, 0), shift(0, 0)).all()
    assert hidden(shift(2, 0), shift(-2, 0))[..., 6:].all(), "what comes from outside was not to be seen"


def test_softened_places_stay_hidden_and_their_edges_are_soft() -> None:
    places = torch.zeros(1, 1, 32, 32)
    assert not softened(places).any()
    places[..., 10:14, 10:14] = 1
    found = softened(places)
    assert (found[..., 10:14, 10:14] == 1).all()
    assert 0 < found[0, 0, 12, 20] < 1
    assert found[0, 0, 30, 30] == 0


def test_a_still_clip_does_not_move_and_a_moving_square_is_followed() -> None:
    frame = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    still = motion(frame, frame)
    assert still.flow.abs().max() < 0.1
    assert not still.hidden.any()
    texture = torch.nn.functional.interpolate(frame[None, :, :16, :16], (64, 64), mode="bicubic")[0]
    back = motion(texture, texture.roll(3, 2))
    inside = back.flow[0, :, 16:48, 16:48]
    assert inside[0].median().item() == pytest.approx(-3, abs=0.3)
    assert inside[1].median().item() == pytest.approx(0, abs=0.3)
