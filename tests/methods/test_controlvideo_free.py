"""ControlVideo without training, on a tiny real UNet and ControlNet: what is shown alike is drawn alike, and
long clips are drawn by their keys."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import ControlNetModel
from torch import Tensor

from vgen.app.control_net import Structure
from vgen.attention.keys import Frame
from vgen.backbones.blank import Blank, blank
from vgen.backbones.image_model import ImageModel
from vgen.diffusion.frames import Sliding
from vgen.diffusion.smoother import Kept, SmootherSpec
from vgen.layers.norm import NormScope
from vgen.methods import assemble
from vgen.methods._edit_session import EditSession
from vgen.methods._editing import start_noise
from vgen.methods._sampling import Sampling
from vgen.methods._wishes import Wish
from vgen.methods.controlvideo_free import Between, ControlVideoFree, Interpolator

SIDE, CPU = 8, torch.device("cpu")
PLAIN = {"smoother": SmootherSpec(count=0)}


@pytest.fixture(scope="module")
def model() -> ImageModel:
    return blank(Blank.TOYBOX, seed=0).freeze()


@pytest.fixture(scope="module")
def net(model: ImageModel) -> ControlNetModel:
    """With something in its zero convolutions."""
    torch.manual_seed(3)
    net = ControlNetModel.from_unet(model.unet, conditioning_embedding_out_channels=(16, 32, 96))
    for conv in (*net.controlnet_down_blocks, net.controlnet_mid_block):
        torch.nn.init.normal_(conv.weight, std=0.3)
    torch.nn.init.normal_(net.controlnet_cond_embedding.conv_out.weight, std=0.3)
    return net.eval().requires_grad_(False)


def pictures(frames: int, still: bool = False) -> Tensor:
    drawn = torch.rand(1, frames, 3, 4 * SIDE, 4 * SIDE, generator=torch.Generator().manual_seed(4))
    return drawn[:, :1].expand_as(drawn) if still else drawn


@pytest.fixture
def drawn(model: ImageModel, net: ControlNetModel):
    """Latents that a recipe draws along pictures."""

    def draw(recipe: ControlVideoFree, shown: Tensor, window: int = 0, steps: int = 2) -> Tensor:
        video_model, frames = assemble(recipe, model), shown.shape[1]
        try:
            noise = start_noise(model, frames, (SIDE, SIDE), 0, CPU, recipe.start())
            session = EditSession(
                video_model=video_model,
                wish=Wish(target="a large red circle"),
                noise=noise,
                sampling=Sampling(num_steps=steps, guidance=3.0),
                frames=recipe.frame_schedule(Sliding(num_frames=window)),
            )
            structure = Structure(net=net, pictures=shown).run_by(recipe)
            fields = structure.beside(video_model, noise)
            return recipe.edit(replace(session, fields=fields)).latents
        finally:
            for part in video_model.nets().values():
                part.eject()

    return draw


def test_a_still_control_draws_a_still_clip(drawn) -> None:
    """One noise, one picture: all frames are the same; smoothing that keeps the change alone changes nothing,
    and one that encodes anew does."""
    still = pictures(3, still=True)
    found = drawn(ControlVideoFree(**PLAIN), still)
    torch.testing.assert_close(found, found[:, :1].expand_as(found), atol=1e-4, rtol=1e-3)
    kept = ControlVideoFree(smoother=SmootherSpec(kept=Kept.CHANGE), interpolator=Interpolator.MEAN)
    torch.testing.assert_close(drawn(kept, still), found, atol=1e-4, rtol=1e-3)
    sampled = ControlVideoFree(interpolator=Interpolator.MEAN)
    assert not torch.allclose(drawn(sampled, still), found, atol=1e-2)


def test_a_clip_of_one_frame_is_a_picture_of_the_image_model(drawn) -> None:
    own = ControlVideoFree(**PLAIN)
    plain = replace(own, frames_read=[Frame.SELF], image_norm_scope=NormScope.FRAME, shared_noise=False)
    torch.testing.assert_close(drawn(own, pictures(1)), drawn(plain, pictures(1)), atol=1e-4, rtol=1e-3)


def test_frames_do_read_each_other(drawn) -> None:
    own = ControlVideoFree(**PLAIN, image_norm_scope=NormScope.FRAME)
    shown = pictures(3)
    other = torch.cat([shown[:, :2], 1 - shown[:, 2:]], 1)
    assert not torch.allclose(drawn(own, shown)[:, 0], drawn(own, other)[:, 0])
    alone = replace(own, frames_read=[Frame.SELF])
    torch.testing.assert_close(drawn(alone, shown)[:, 0], drawn(alone, other)[:, 0], atol=1e-4, rtol=1e-3)


def test_what_fits_is_drawn_whole_and_longer_clips_by_their_keys(drawn) -> None:
    """Keys heed no frame between them; a frame between two keys heeds its own picture, and the keys."""
    own, shown = ControlVideoFree(**PLAIN), pictures(7)
    assert torch.equal(drawn(own, shown, window=7), drawn(own, shown))
    other = shown.clone()
    other[:, 1] = 1 - other[:, 1]
    keys = [0, 2, 4, 6]
    long, changed = drawn(own, shown, window=4), drawn(own, other, window=4)
    torch.testing.assert_close(long[:, keys], changed[:, keys])
    assert not torch.allclose(long[:, 1], changed[:, 1])
    torch.testing.assert_close(long[:, 3], changed[:, 3])
    assert (long - drawn(own, shown)).abs().max() > 1e-4


def test_the_papers_reading_of_both_keys_is_a_knob(drawn) -> None:
    shown = pictures(7)
    found = {b: drawn(ControlVideoFree(**PLAIN, between=b), shown, window=4) for b in Between}
    torch.testing.assert_close(found[Between.KEYS][:, ::2], found[Between.LAST][:, ::2])
    assert not torch.allclose(found[Between.KEYS][:, 1], found[Between.LAST][:, 1])


def test_the_same_seed_is_the_same_clip_noise_of_the_encoder_included(drawn) -> None:
    own, shown = ControlVideoFree(), pictures(4)
    assert torch.equal(drawn(own, shown), drawn(own, shown))


def test_prompts_that_are_added_are_heard(drawn) -> None:
    own, shown = ControlVideoFree(**PLAIN), pictures(2)
    for words in ({"suffix": " on a black background"}, {"negative": "a blue square"}):
        assert not torch.allclose(drawn(replace(own, **words), shown), drawn(own, shown))
