"""Laws of views: the same numbers give the same views, gradients pass, and geometry is what it says."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from vgen.backbones.augmentation import grey, homography, hue_turned, input_view, piece, views, warped


def draw(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_views_are_a_function_of_the_seed() -> None:
    picture = torch.rand(3, 40, 40)
    ours = views(picture, 6, 16, draw())
    assert ours.shape == (6, 3, 16, 16)
    assert torch.equal(ours, views(picture, 6, 16, draw()))
    assert not torch.equal(ours, views(picture, 6, 16, draw(1)))


def test_gradients_pass_through_every_view() -> None:
    picture = torch.rand(3, 24, 24, requires_grad=True)
    for view in views(picture, 8, 12, draw()):
        (found,) = torch.autograd.grad(view.sum(), picture, retain_graph=True)
        assert found.abs().sum() > 0


def test_four_points_go_where_they_should() -> None:
    given, wanted = torch.rand(4, 2, generator=draw()), torch.rand(4, 2, generator=draw(2))
    there = torch.cat([given, torch.ones(4, 1)], 1) @ homography(given, wanted).T
    torch.testing.assert_close(there[:, :2] / there[:, 2:], wanted, atol=1e-3, rtol=1e-3)


def test_warping_reads_the_place_and_white_beyond() -> None:
    picture = torch.rand(3, 8, 8)
    torch.testing.assert_close(warped(picture, torch.eye(3)), picture)
    mirrored = warped(picture, torch.diag(torch.tensor([-1.0, 1.0, 1.0])))
    torch.testing.assert_close(mirrored, picture.flip(-1))
    away = torch.eye(3)
    away[0, 2] = 1.0  # half the width
    moved = warped(picture, away)
    torch.testing.assert_close(moved[..., :4], picture[..., 4:])
    torch.testing.assert_close(moved[..., 4:], torch.ones(3, 8, 4))


def test_hue_turns_about_grey() -> None:
    red = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    torch.testing.assert_close(hue_turned(red, 1 / 3)[:, 0, 0], torch.tensor([0.0, 1.0, 0.0]))
    plain = torch.full((3, 2, 2), 0.4)
    torch.testing.assert_close(hue_turned(plain, 0.1), plain)
    torch.testing.assert_close(grey(plain), plain[:1])


@pytest.mark.parametrize("seed", range(4))
def test_pieces_have_their_share(seed: int) -> None:
    picture = torch.rand(3, 50, 30)
    found = piece(picture, 0.6, draw(seed))
    assert 30 <= found.shape[1] <= 50
    assert 18 <= found.shape[2] <= 30
    seen = input_view(picture, 0.85, draw(seed))
    assert 0.85 * 0.8 * 50 - 2 <= seen.shape[1] <= 60
