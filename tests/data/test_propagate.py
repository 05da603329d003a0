"""From key frames to all frames: what stands still stays, what moves is followed, and two keys are joined
without a seam."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vgen.backbones.warp import Motion
from vgen.data.blend_keys import Side, blended, chosen_behind, contrasted, lab, rgb, standard, with_gradients
from vgen.data.patch_match import Made, Matching, made_alike, positions, voted
from vgen.data.propagate import Propagation, propagated

SIZE = 32


def picture(seed: int, size: int = SIZE) -> Tensor:
    """Smooth colours in [0, 1]."""
    few = torch.rand(1, 3, size // 4, size // 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(few, (size, size), mode="bilinear")[0]


def own_place(look: Tensor) -> Tensor:
    return torch.stack(positions(look[:2]))


# -- patches -----------------------------------------------------------------------------------------------
def test_every_patch_at_its_own_place_is_the_picture() -> None:
    look = picture(0)
    torch.testing.assert_close(voted(look, own_place(look), 2), look)
    found = made_alike(look, picture(1), picture(1), own_place(look), Matching())
    torch.testing.assert_close(found.picture, look)
    assert not found.error.any()


def test_what_moved_is_found_again() -> None:
    """Without a hint of the motion, from every position's own place."""
    look, source = picture(0), picture(1)
    target, wanted = source.roll(3, 2), look.roll(3, 2)
    found = made_alike(look, source, target, own_place(look), Matching(rounds=3, searches=4), seed=1).picture
    before = (look - wanted)[..., 6:-6].abs().mean()
    assert (found - wanted)[..., 6:-6].abs().mean() < 0.3 * before


def test_the_same_seed_finds_the_same() -> None:
    look, source, target = picture(0), picture(1), picture(2)
    one, again = (made_alike(look, source, target, own_place(look), Matching(), seed=3) for _ in range(2))
    assert torch.equal(one.picture, again.picture)


@pytest.mark.parametrize("knobs", [{"radius": -1}, {"rounds": 0}, {"style": -1.0}, {"reach": -1}])
def test_matching_that_means_nothing_is_refused(knobs: dict) -> None:
    with pytest.raises(
        ValueError, match="patch matching needs a radius, searches, reach and style of 0 or more"
    ):
        Matching(**knobs)


# -- two keys ----------------------------------------------------------------------------------------------
def side(a: Tensor, b: Tensor, errors: tuple[float, float]) -> Side:
    plain = torch.ones(SIZE, SIZE)
    return Side(Made(a, errors[0] * plain), Made(b, errors[1] * plain))


def still(i: int) -> Motion:
    return Motion(torch.zeros(1, 2, SIZE, SIZE), torch.zeros(1, 1, SIZE, SIZE))


def test_colours_come_back() -> None:
    seen = torch.rand(3, 9, 9)
    torch.testing.assert_close(rgb(lab(seen)), seen, atol=1e-4, rtol=1e-4)


def test_lab_is_that_of_opencv() -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is an extra of vgen's")
    seen = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(0))
    theirs = cv2.cvtColor(np.ascontiguousarray(seen.permute(1, 2, 0).numpy()), cv2.COLOR_RGB2Lab)
    ours = lab(seen).permute(1, 2, 0) * torch.tensor([100.0, 255, 255]) - torch.tensor([0.0, 128, 128])
    torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=0.5, rtol=0)


@pytest.mark.parametrize("gradients", [False, True])
def test_two_keys_that_agree_are_what_they_say(gradients: bool) -> None:
    same = picture(0)
    sides = [side(same, same, (1, 2))] * 3
    found = blended(sides, still, gradients)
    torch.testing.assert_close(found, same.expand(3, -1, -1, -1), atol=1e-3, rtol=1e-3)


def test_the_nearer_key_weighs_more_and_the_smaller_error_wins() -> None:
    one = side(picture(0), picture(1), (1, 1))
    assert not chosen_behind(one, 0).any()
    assert not chosen_behind(one, 0.4).any()
    assert chosen_behind(one, 0.6).all()
    assert chosen_behind(side(picture(0), picture(1), (9, 1)), 0.2).all()


def test_what_was_the_key_behinds_stays_its_own() -> None:
    a, b = picture(0), picture(1)
    sides = [side(a, b, (1, 1)), side(a, b, (9, 1)), side(a, b, (0, 1))]
    found = blended(sides, still, gradients=False)
    mean = lab(found[2]).mean((1, 2))
    torch.testing.assert_close(mean, lab(b).mean((1, 2)), atol=2e-2, rtol=2e-2)


def test_contrast_is_that_of_what_is_like_it() -> None:
    found = contrasted(picture(0), picture(1))
    for wanted, got in zip(standard(picture(0)), standard(found), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.mean((1, 2)), picture(1).mean((1, 2)))
    flat = torch.full((3, 4, 4), 0.5)
    assert torch.equal(contrasted(flat, flat), flat)


def test_gradients_that_agree_change_nothing_and_others_are_met() -> None:
    """The solution makes the gradient of what it minimises vanish."""
    seen = 0.3 * picture(0).double()
    none = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    torch.testing.assert_close(with_gradients(seen, seen, picture(1).double(), none), seen)
    a, b = (0.3 * picture(i).double() for i in (1, 2))
    behind = torch.rand(SIZE, SIZE) > 0.5
    found = with_gradients(seen, a, b, behind).requires_grad_()
    lost = (found - seen).square().sum()
    for axis in (1, 2):
        cut = behind.narrow(axis - 1, 0, SIZE - 1)
        steps = torch.where(cut, b.diff(dim=axis), a.diff(dim=axis))
        pull = torch.tensor([2.5, 0.5, 0.5]).double()[:, None, None]
        lost = lost + (pull * (found.diff(dim=axis) - steps)).square().sum()
    lost.backward()
    assert found.grad is not None
    assert found.grad.abs().max() < 1e-9


# -- the whole ---------------------------------------------------------------------------------------------
QUICK = Propagation(matching=Matching(rounds=1, searches=1))


def test_a_still_clip_stays_as_its_key_was_drawn() -> None:
    source = (2 * picture(0) - 1).expand(5, -1, -1, -1)
    drawn = (2 * picture(1) - 1).expand(3, -1, -1, -1)
    found = propagated(source, [0, 2, 4], drawn, QUICK)
    torch.testing.assert_close(found, drawn[:1].expand(5, -1, -1, -1), atol=2e-3, rtol=2e-3)
    assert torch.equal(found[[0, 2, 4]], drawn)


def test_a_look_moves_with_the_clip() -> None:
    """A texture that moves one pixel a frame to the right, in other colours."""
    texture, look = picture(0, 64), 1 - picture(0, 64)
    source, wanted = (
        torch.stack([2 * x.roll(i, 2)[:, :, 8:56] - 1 for i in range(5)]) for x in (texture, look)
    )
    told: list[tuple[int, int]] = []
    found = propagated(source, [0, 4], wanted[[0, 4]], Propagation(), lambda *said: told.append(said))
    still = (wanted[0] - wanted[2]).abs().mean()
    assert (found[2] - wanted[2]).abs().mean() < 0.35 * still
    assert told == [(3, 3)]


@pytest.mark.parametrize(
    ("keys", "count", "message"),
    [
        ([0, 3], 2, "key frames must run from 0 to 4, the ends of the clip"),
        ([0, 2, 2, 4], 4, "key frames must run from 0 to 4"),
        ([0, 4], 3, r"drawn key frames must be 2 of \(3, 32, 32\), as the clip's, got \(3, 3, 32, 32\)"),
    ],
)
def test_keys_that_do_not_fit_are_refused(keys: list[int], count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        propagated(torch.zeros(5, 3, SIZE, SIZE), keys, torch.zeros(count, 3, SIZE, SIZE), QUICK)


def test_guides_without_weight_are_refused() -> None:
    with pytest.raises(
        ValueError, match="guides need weights of 0 or more, one of them above, got 0, 0, 0, 0"
    ):
        Propagation(colour=0, edges=0, before=0, place=0)
