"""Follow Your Pose: its size, and both stages together."""

from __future__ import annotations

import logging
from dataclasses import replace
from fnmatch import fnmatchcase

import pytest
import torch
from diffusers.models import AutoencoderKL
from torch import nn

from vgen.backbones.blank import Blank, blank_unet
from vgen.backbones.feature_net import feature_net
from vgen.backbones.image_model import ImageModel
from vgen.methods import assemble
from vgen.methods._assembly import Part, assemble_stack
from vgen.methods._sampling import Prompt, Sampling, generate
from vgen.methods.follow_your_pose import FollowYourPose, FollowYourPoseEncoder


def count(parameters: list[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)


def test_it_is_as_large_as_the_released_code(tiny: ImageModel) -> None:
    """Counted there with ``attn1.to_q``, ``attn2.to_q``, ``attn_temp``, ``conv_temporal``."""
    with torch.device("meta"):
        large = replace(tiny, unet=blank_unet(Blank.SD15))
        recipe = FollowYourPose()
        unet = assemble(recipe, large).unet
        learns = [
            p
            for name, p in unet.named_parameters()
            if any(fnmatchcase(f"unet.{name}", pattern) for pattern in recipe.learns())
        ]
    assert count(learns) == 86_335_680


def test_the_encoder_is_as_large_as_the_released_one(tiny: ImageModel) -> None:
    vae = eighth()
    with torch.device("meta"):
        net = feature_net(replace(tiny, unet=blank_unet(Blank.SD15), vae=vae))
    assert count(list(net.parameters())) == 77_369_280


def test_it_is_moved_without_a_word(tiny: ImageModel, caplog: pytest.LogCaptureFixture) -> None:
    """diffusers' own ``to`` of this net warns of modules that it does not have."""
    library = logging.getLogger("diffusers.models.modeling_utils")
    library.addHandler(caplog.handler)
    try:
        assemble(FollowYourPoseEncoder(), tiny).to("cpu", torch.float32)
    finally:
        library.removeHandler(caplog.handler)
    assert caplog.text == ""


def eighth() -> AutoencoderKL:
    """A VAE whose latents are an eighth of the picture's sides, as SD 1.5's."""
    with torch.device("meta"):
        return AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=4,
        )


def poses(x: float) -> torch.Tensor:
    """One person of 17 joints in two frames, 1 f p j 3, at the same place ``x``."""
    generator = torch.Generator().manual_seed(0)
    pose = torch.rand(1, 2, 1, 17, 3, generator=generator)
    pose[..., 0] = x + 0.2 * pose[..., 0]
    pose[..., 2] = 1
    return pose


@pytest.mark.parametrize("order", [("pose", "motion"), ("motion", "pose")])
@torch.no_grad()
def test_both_stages_draw_along_a_pose_in_whatever_order_they_are_stacked(
    tiny: ImageModel, order: tuple[str, str]
) -> None:
    stages = {"pose": FollowYourPoseEncoder(), "motion": FollowYourPose()}
    torch.manual_seed(0)
    video_model = assemble_stack([Part(name, stages[name]) for name in order], tiny)
    sampling = Sampling(num_frames=2, num_steps=2, width_px=64, height_px=64)
    prompts = [Prompt("a red circle", 0)]

    def drawn(x: float) -> torch.Tensor:
        return generate(video_model, prompts, sampling, more={"pose": poses(x)})

    assert torch.equal(drawn(0.1), drawn(0.1))
    assert not torch.allclose(drawn(0.1), drawn(0.7))
