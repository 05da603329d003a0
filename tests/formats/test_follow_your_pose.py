"""Follow Your Pose checkpoints and their pose encoders, out and in again."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vgen.backbones.feature_net import feature_net
from vgen.backbones.image_model import ImageModel
from vgen.formats import state_file, tune_a_video
from vgen.formats.follow_your_pose import PosedUNet, export, import_, recognises
from vgen.formats.foreign import Source
from vgen.formats.pose_encoder import PREFIX, PoseEncoderFile, own_name, their_name
from vgen.formats.state_file import Container
from vgen.methods import assemble
from vgen.methods.follow_your_pose import FollowYourPose


@pytest.fixture
def taught(tiny: ImageModel) -> dict[str, Tensor]:
    """What stage two learns, by vgen's names; the image UNet is left as it was."""
    unet, recipe = assemble(FollowYourPose(), tiny).unet, FollowYourPose()
    names = [
        n for n, _ in unet.named_parameters() if any(fnmatchcase(f"unet.{n}", p) for p in recipe.learns())
    ]
    generator = torch.Generator().manual_seed(0)
    out = {f"unet.{n}": torch.randn(unet.get_parameter(n).shape, generator=generator) for n in names}
    unet.eject()
    return out


@pytest.fixture
def encoder(tiny: ImageModel) -> dict[str, Tensor]:
    return {f"pose.{name}": value for name, value in feature_net(tiny).state_dict().items()}


def test_out_and_in_again_is_the_same(tiny: ImageModel, taught: dict[str, Tensor]) -> None:
    state = export(taught, tiny.unet)
    assert "down_blocks.0.attentions.0.transformer_blocks.0.conv_temporal.up.weight" in state
    assert recognises(state)
    assert not tune_a_video.recognises(state), "or the file would be read without its convolutions"
    back = import_(state, tiny.unet)
    assert back.tensors.keys() == taught.keys()
    assert all(torch.equal(back.tensors[n], v) for n, v in taught.items())
    assert back.knobs["image_norm_scope"] == "clip"


def test_the_authors_unet_holds_its_encoder_too(
    tiny: ImageModel, taught: dict[str, Tensor], encoder: dict[str, Tensor], tmp_path: Path
) -> None:
    inside = {PREFIX + their_name(n.removeprefix("pose.")): v for n, v in encoder.items()}
    path = tmp_path / "unet.safetensors"
    state_file.write(path, {**export(taught, tiny.unet), **inside}, Container.SAFETENSORS, {})
    source = Source("unet.safetensors", path)
    assert PosedUNet().recognises(source)
    assert PosedUNet().read(source, tiny.unet, 0).tensors.keys() == taught.keys()
    assert PoseEncoderFile("pose").recognises(source)
    found = PoseEncoderFile("pose").read(source, tiny.unet, 0).tensors
    assert found.keys() == encoder.keys()
    assert all(torch.equal(found[n], v) for n, v in encoder.items())


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("conv_in.weight", "adapter.conv_in.weight"),
        ("body.0.block1.bias", "adapter.body.0.resnets.0.block1.bias"),
        ("body.2.in_conv.weight", "adapter.body.1.in_conv.weight"),
        ("body.3.block2.weight", "adapter.body.1.resnets.1.block2.weight"),
        ("body.7.block1.weight", "adapter.body.3.resnets.1.block1.weight"),
    ],
)
def test_blocks_are_counted_through_all_levels(theirs: str, ours: str) -> None:
    assert own_name(theirs) == own_name(PREFIX + theirs) == own_name(ours) == ours
    assert their_name(ours) == theirs


def test_an_image_unet_is_no_pose_encoder(tiny: ImageModel, tmp_path: Path) -> None:
    path = tmp_path / "unet.safetensors"
    state_file.write(path, dict(tiny.unet.state_dict()), Container.SAFETENSORS, {})
    assert not PoseEncoderFile("pose").recognises(Source("unet.safetensors", path))


def test_a_cut_file_says_what_it_lacks(tiny: ImageModel, taught: dict[str, Tensor]) -> None:
    state = export(taught, tiny.unet)
    lost = next(name for name in state if name.endswith("conv_temporal.up.weight"))
    state.pop(lost)
    with pytest.raises(ValueError, match="lacks 1 convolutions over frames"):
        import_(state, tiny.unet)
