"""The interleaved smoother: what it replaces, what it leaves, and that chunks don't show."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vgen.diffusion.smoother import CHUNK, Kept, Smoother, SmootherSpec, interleaved, neighbours


def mean(first: Tensor, second: Tensor) -> Tensor:
    return (first + second) / 2


def ramp(num_frames: int) -> Tensor:
    """Frame i is i everywhere: motion of one speed."""
    return torch.arange(num_frames).float()[:, None, None, None].expand(-1, 3, 2, 2).clone()


def test_which_frames_give_way_to_which_is_as_released() -> None:
    assert neighbours(5, 30) == [(1, 0, 2), (3, 2, 4)]
    assert neighbours(6, 30) == [(1, 0, 2), (3, 2, 4)], "the last odd frame has no neighbour behind it"
    assert neighbours(5, 31) == [(0, 0, 1), (2, 1, 3), (4, 3, 4)]
    assert neighbours(6, 31) == [(0, 0, 1), (2, 1, 3), (4, 3, 5)]
    assert neighbours(1, 30) == []


@pytest.mark.parametrize("step", [30, 31])
def test_a_still_clip_stays(step: int) -> None:
    still = torch.rand(1, 3, 4, 4).expand(7, -1, -1, -1)
    torch.testing.assert_close(interleaved(still, step, mean), still)


def test_even_motion_stays_but_for_the_ends() -> None:
    clip = ramp(7)
    torch.testing.assert_close(interleaved(clip, 30, mean), clip)
    odd = interleaved(clip, 31, mean)
    torch.testing.assert_close(odd[1:-1], clip[1:-1])
    assert [odd[0, 0, 0, 0].item(), odd[-1, 0, 0, 0].item()] == [0.5, 5.5]


def smoother(kept: Kept, lossy: bool = False, **settings) -> Smoother:
    """An encoder of its own: latents are pixels; a lossy one dims them."""

    def encode(pixels: Tensor, seeds: list[int] | None) -> Tensor:
        latents = pixels * (0.9 if lossy else 1.0)
        noise = torch.tensor(seeds or [0] * len(pixels)).float()
        return latents + noise[:, None, None, None]

    return Smoother(
        settings=SmootherSpec(kept=kept, **settings),
        num_steps=50,
        midpoint=mean,
        decode=lambda latents: latents,
        encode=encode,
        seeds=lambda step: list(range(3 * CHUNK)),
    )


@pytest.mark.parametrize("step", [30, 31])
@pytest.mark.parametrize("num_frames", [CHUNK - 1, CHUNK, CHUNK + 1, CHUNK + 2, 2 * CHUNK + 3])
def test_chunks_do_not_show(step: int, num_frames: int) -> None:
    clip = torch.randn(2, num_frames, 3, 2, 2)
    expected = torch.stack([interleaved(row, step, mean) for row in clip])
    torch.testing.assert_close(smoother(Kept.MEAN)(step, clip), expected)
    noise = torch.arange(num_frames).float()[:, None, None, None]
    torch.testing.assert_close(smoother(Kept.SAMPLE)(step, clip), expected + noise)


def test_it_acts_in_its_steps_alone() -> None:
    clip = torch.randn(1, 5, 3, 2, 2)
    acts = [step for step in range(50) if not torch.equal(smoother(Kept.MEAN)(step, clip), clip)]
    assert acts == [30, 31]
    assert list(SmootherSpec().steps(20)) == [12, 13]
    assert list(SmootherSpec().steps(2)) == [1], "a run of two steps has one left"
    assert not SmootherSpec(count=0).steps(50)


def test_what_the_encoder_loses_is_lost_by_no_frame_where_the_change_is_kept() -> None:
    clip = torch.rand(1, 1, 3, 2, 2).expand(-1, 5, -1, -1, -1)
    assert torch.equal(smoother(Kept.CHANGE, lossy=True)(31, clip), clip)
    assert not torch.allclose(smoother(Kept.MEAN, lossy=True)(31, clip), clip)


def test_a_start_behind_the_end_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs a start, a share of the steps, .* got start=1\.5"):
        SmootherSpec(start=1.5)
