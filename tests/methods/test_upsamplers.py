"""Upsamplers: the small clip beside x, windows of frames, one noise where frames are drawn apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from vgen.backbones.image_model import ImageModel
from vgen.conditions.low_resolution import LOW, LowResolution, enlarged_latents
from vgen.diffusion.draws import Draws
from vgen.diffusion.frames import Sliding
from vgen.methods import assemble
from vgen.methods._cascade import Enlarges
from vgen.methods._sampling import Prompt, Sampling, generate
from vgen.methods.align_your_latents_upsampler import AlignYourLatentsUpsampler
from vgen.methods.make_a_video_upsampler import MakeAVideoUpsampler

SMALL = Sampling(num_frames=2, num_steps=2, guidance=2.0, width_px=64, height_px=64)


@torch.no_grad()
def test_it_is_told_the_latents_of_the_clip_in_fewer_pixels(tiny: ImageModel) -> None:
    draw = torch.Generator().manual_seed(0)
    video = torch.randint(0, 255, (1, 2, 3, 64, 64), dtype=torch.uint8, generator=draw)
    told = LowResolution(factor=2).prepare(tiny, {"video": video}).frames[LOW]
    small = F.avg_pool2d(video[0].float() / 127.5 - 1, 2)[None]
    latents = tiny.encode(small)
    assert told.shape == (1, 2, 4, 64 // tiny.vae_factor, 64 // tiny.vae_factor)
    for i in (0, 1):
        for j in (0, 1):
            torch.testing.assert_close(told[..., i::2, j::2], latents)
    kept = {"video": video, LOW: told}
    assert not LowResolution().prepare(tiny, kept).frames, "what a cache kept is not made again"


@pytest.mark.parametrize("over_frames", [True, False])
@torch.no_grad()
def test_the_small_clip_is_seen(tiny: ImageModel, over_frames: bool) -> None:
    recipe = MakeAVideoUpsampler(over_frames=over_frames)
    video_model = assemble(recipe, tiny)
    torch.manual_seed(0)
    for p in video_model.unet.inserted.parameters():
        p.add_(0.02 * torch.randn_like(p))
    side = 64 // tiny.vae_factor
    low = enlarged_latents(torch.randn(1, 2, 4, side // 2, side // 2), 2)

    def drawn(low: torch.Tensor) -> torch.Tensor:
        return generate(video_model, [Prompt("a red circle", 0)], SMALL, more={LOW: low})

    first = drawn(low)
    assert torch.equal(drawn(low), first)
    other = low.clone()
    other[:, 0] += 1
    changed = drawn(other)
    assert not torch.allclose(changed[:, 0], first[:, 0], atol=1e-3)
    apart = torch.allclose(changed[:, 1], first[:, 1], atol=1e-4)
    assert apart is not over_frames


@torch.no_grad()
def test_align_your_latents_upsampler_sees_eight_frames_at_once(tiny: ImageModel) -> None:
    recipe = AlignYourLatentsUpsampler(low=LowResolution(factor=2), window=2)
    assert recipe.frame_schedule(Sliding()).at_once(5) == 2
    assert AlignYourLatentsUpsampler().frame_schedule(Sliding()).at_once(20) == 8
    assert recipe.frame_schedule(Sliding(num_frames=4)).at_once(5) == 4
    video_model = assemble(recipe, tiny)
    torch.manual_seed(0)
    for p in video_model.unet.inserted.parameters():
        p.add_(0.1 * torch.randn_like(p))
    side = 64 // tiny.vae_factor
    low = enlarged_latents(torch.randn(1, 5, 4, side // 2, side // 2), 2)
    five = replace(SMALL, num_frames=5)
    first = generate(video_model, [Prompt("a red circle", 0)], five, more={LOW: low})
    low[:, 4] += 1
    other = generate(video_model, [Prompt("a red circle", 0)], five, more={LOW: low})
    torch.testing.assert_close(other[:, 0], first[:, 0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(other[:, 4], first[:, 4], atol=1e-3)
    with pytest.raises(ValueError, match="window must be at least 1 frame, got 0"):
        AlignYourLatentsUpsampler(window=0)


def test_frames_that_are_drawn_apart_start_from_one_noise() -> None:
    like, draws = torch.empty(1, 3, 4, 2, 2), Draws(0, [("a", 0)])
    alone = MakeAVideoUpsampler(over_frames=False).start().noise(draws, like)
    assert torch.equal(alone[:, 0], alone[:, 2])
    assert not torch.equal(*MakeAVideoUpsampler().start().noise(draws, like)[0, :2])


def test_what_it_cannot_enlarge_is_refused(tiny: ImageModel) -> None:
    with pytest.raises(ValueError, match="factor is at least 2, got 1"):
        LowResolution(factor=1)
    side = tiny.vae_factor * 3
    video = torch.zeros(1, 1, 3, side, side, dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"clips of {side} x {side} px can't be reduced by 2"):
        LowResolution().prepare(tiny, {"video": video})
    with pytest.raises(ValueError, match="gives as many, got num_frames=5"):
        Enlarges(2).frames(4, 5, 0)
