"""AnimateDiff on Stable Diffusion's shapes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vgen.app.show import describe
from vgen.backbones.blank import Blank, blank_unet
from vgen.backbones.conditioning import Conditioning
from vgen.backbones.image_model import ImageModel
from vgen.backbones.video_unet import VideoUNet
from vgen.data.batch import Batch
from vgen.diffusion.draws import Draws
from vgen.diffusion.schedule import Betas, shifted
from vgen.layers.motion_module import MotionModuleSpec
from vgen.layers.norm import NormScope
from vgen.methods import assemble
from vgen.methods._objectives import Denoising
from vgen.methods._video_model import Encodings, VideoModel
from vgen.methods.animatediff import AnimateDiff
from vgen.methods.image.latent_diffusion import LatentDiffusion


@pytest.mark.parametrize(
    ("mid_block", "modules", "parameters"), [(False, 20, 417_137_600), (True, 21, 453_209_280)]
)
def test_trainable_counts_on_sd15(tiny: ImageModel, mid_block: bool, modules: int, parameters: int) -> None:
    with torch.device("meta"):
        tiny.unet = blank_unet(Blank.SD15)
        unet = assemble(AnimateDiff(mid_block=mid_block), tiny).unet
    assert len(unet.inserted) == modules
    assert sum(p.numel() for p in unet.inserted.parameters()) == parameters


def test_the_schedule_is_its_own(tiny: ImageModel) -> None:
    assert tiny.scheduler_config["beta_schedule"] == "scaled_linear"
    assert assemble(AnimateDiff(), tiny).schedule.betas is Betas.LINEAR


@torch.no_grad()
def test_more_frames_than_positions_names_the_remedy(tiny: ImageModel) -> None:
    unet = assemble(AnimateDiff(motion=MotionModuleSpec(num_positions=4)), tiny).unet
    given = Conditioning(tiny.encode_text(["a"]))
    with pytest.raises(ValueError, match=r"5 frames.*4 position rows.*window"):
        unet(torch.randn(1, 5, 4, 8, 8), torch.tensor([1]), given)


@torch.no_grad()
def test_image_norms_over_the_clip_change_the_picture_and_leave_again(tiny: ImageModel) -> None:
    context = tiny.to("cpu", torch.float64).encode_text(["a"])
    x, t = torch.randn(1, 3, 4, 8, 8, dtype=torch.float64), torch.tensor([5])
    alone = tiny.unet(x[:, 0], t, context.tokens).sample
    pooled = assemble(AnimateDiff(image_norm_scope=NormScope.CLIP), tiny).unet.double()
    assert not torch.allclose(pooled(x, t, Conditioning(context))[:, 0], alone, atol=1e-3)
    still = x[:, :1].expand(-1, 3, -1, -1, -1)
    torch.testing.assert_close(pooled(still, t, Conditioning(context))[:, 0], alone)
    pooled.eject()
    assert torch.equal(tiny.unet(x[:, 0], t, context.tokens).sample, alone)


def test_a_head_count_that_does_not_divide_is_named(tiny: ImageModel) -> None:
    with pytest.raises(
        ValueError, match=r"must divide the 32 channels of down_blocks\.0\.attentions\.0, got 5"
    ):
        assemble(AnimateDiff(motion=MotionModuleSpec(heads=5)), tiny)


def test_show_prints_the_row() -> None:
    text = describe("animatediff", {"mid_block": "true"}, "sd15")
    assert "21 layers" in text
    assert "453,209,280 parameters" in text


@pytest.mark.parametrize("recipe", [AnimateDiff, LatentDiffusion])
def test_draws_of_training_are_checked_before_a_model_is_loaded(
    recipe: type[AnimateDiff | LatentDiffusion], tiny: ImageModel
) -> None:
    with pytest.raises(ValueError, match=r"text_drop is a probability, got 1\.5"):
        recipe(text_drop=1.5)
    with pytest.raises(ValueError, match=r"timestep_shift must be above 0, got 0"):
        recipe(timestep_shift=0.0)
    assert recipe(timestep_shift=3.0).objective(tiny).timestep_shift == 3.0


@torch.no_grad()
def test_a_clip_has_one_timestep_and_a_share_of_them_the_empty_text(
    tiny: ImageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    num = 200
    batch = Batch(
        keys=[(str(i), 0) for i in range(num)],
        captions=["a red circle"] * num,
        latents=torch.zeros(num, 3, 4, 1, 1),
    )
    seen: list[tuple[Tensor, Tensor]] = []

    def asked(self: VideoUNet, x: Tensor, t: Tensor, given: Conditioning) -> Tensor:
        seen.append((t, given.text().tokens))
        return torch.zeros_like(x)

    monkeypatch.setattr(VideoUNet, "forward", asked)
    empty, full = (tiny.encode_text([text]).tokens[0] for text in ("", "a red circle"))
    for drop in (0.0, 0.1, 1.0):
        recipe = AnimateDiff(text_drop=drop)
        video_model = assemble(recipe, tiny)
        recipe.objective(tiny).loss(video_model, batch, Draws(0, batch.keys))
        video_model.unet.eject()
        t, tokens = seen.pop()
        assert t.shape == (num,)
        assert len(t.unique()) > 150
        dropped = torch.tensor([torch.allclose(row, empty, atol=1e-4) for row in tokens])
        assert all(torch.allclose(row, full, atol=1e-4) for row in tokens[~dropped])
        assert abs(dropped.float().mean() - drop) < 0.07
    assert not torch.allclose(empty, full, atol=1e-2)


def test_a_timestep_shift_trains_on_the_shifted_timesteps(
    tiny: ImageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Batch(
        keys=[(str(i), 0) for i in range(200)],
        captions=["a circle"] * 200,
        latents=torch.zeros(200, 1, 4, 1, 1),
    )
    seen: list[Tensor] = []

    def errors(
        self: Denoising, video_model: VideoModel, encoded: Encodings, latents: Tensor, t: Tensor, *_
    ) -> Tensor:
        seen.append(t)
        return torch.zeros(len(t))

    monkeypatch.setattr(Denoising, "errors", errors)
    for shift in (1.0, 3.0):
        recipe = LatentDiffusion(timestep_shift=shift)
        video_model = assemble(recipe, tiny)
        recipe.objective(tiny).loss(video_model, batch, Draws(0, batch.keys))
        video_model.unet.eject()
    plain, shifted_ones = seen
    assert torch.equal(shifted_ones, shifted(plain, 3.0, 1000))
    assert shifted_ones.float().mean() > plain.float().mean() + 100
