"""AnimateDiff on Stable Diffusion's shapes."""
from __future__ import annotations

import pytest
import torch

from vgen.app.show import describe
from vgen.backbones.blank import Blank, blank_unet
from vgen.backbones.image_model import ImageModel
from vgen.diffusion.schedule import Betas
from vgen.layers.motion_module import MotionModuleSpec
from vgen.layers.norm import NormScope
from vgen.methods import assemble
from vgen.methods.animatediff import AnimateDiff


@pytest.mark.parametrize(("mid_block", "modules", "parameters"), [(False, 20, 417_137_600), (True, 21, 453_209_280)])
def test_trainable_counts_on_sd15(tiny: ImageModel, mid_block: bool, modules: int, parameters: int) -> None:
    with torch.device("meta"):
        tiny.unet = blank_unet(Blank.SD15)
        unet = assemble(AnimateDiff(mid_block=mid_block), tiny)
    assert len(unet.inserted) == modules
    assert sum(p.numel() for p in unet.inserted.parameters()) == parameters


def test_the_schedule_is_its_own(tiny: ImageModel) -> None:
    assert tiny.scheduler_config["beta_schedule"] == "scaled_linear"
    assert AnimateDiff().objective(tiny).schedule.betas is Betas.LINEAR


@torch.no_grad()
def test_more_frames_than_positions_names_the_remedy(tiny: ImageModel) -> None:
    unet = assemble(AnimateDiff(motion=MotionModuleSpec(num_positions=4)), tiny)
    with pytest.raises(ValueError, match=r"5 frames.*4 position rows.*window"):
        unet(torch.randn(1, 5, 4, 8, 8), torch.tensor([1]), tiny.encode_text(["a"]))


@torch.no_grad()
def test_image_norms_over_the_clip_change_the_picture_and_leave_again(tiny: ImageModel) -> None:
    context = tiny.to("cpu", torch.float64).encode_text(["a"])
    x, t = torch.randn(1, 3, 4, 8, 8, dtype=torch.float64), torch.tensor([5])
    alone = tiny.unet(x[:, 0], t, context.tokens).sample
    pooled = assemble(AnimateDiff(image_norm_scope=NormScope.CLIP), tiny).double()
    assert not torch.allclose(pooled(x, t, context)[:, 0], alone, atol=1e-3)
    still = x[:, :1].expand(-1, 3, -1, -1, -1)
    torch.testing.assert_close(pooled(still, t, context)[:, 0], alone)
    pooled.eject()
    assert torch.equal(tiny.unet(x[:, 0], t, context.tokens).sample, alone)


def test_a_head_count_that_does_not_divide_is_named(tiny: ImageModel) -> None:
    with pytest.raises(ValueError, match=r"must divide the 32 channels of down_blocks\.0\.attentions\.0, got 5"):
        assemble(AnimateDiff(motion=MotionModuleSpec(heads=5)), tiny)


def test_show_prints_the_row() -> None:
    text = describe("animatediff", {"mid_block": "true"}, "sd15")
    assert "21 layers" in text
    assert "453,209,280 parameters" in text
