"""Stable Video Diffusion's layers over frames, read and run beside diffusers' own networks."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models import AutoencoderKL, AutoencoderKLTemporalDecoder, UNet2DConditionModel
from diffusers.models import UNetSpatioTemporalConditionModel as SpatioTemporalUNet
from torch import nn

from vgen.app.export import Export, export
from vgen.app.loading import open_checkpoint
from vgen.app.plain import from_plain
from vgen.app.stacks import StackEntry
from vgen.backbones.conditioning import Conditioning
from vgen.backbones.image_model import Context, ImageModel
from vgen.backbones.image_model_folder import save
from vgen.formats.adapter import put
from vgen.formats.foreign import Imported, Source
from vgen.formats.stable_video import StableVideoDecoder, StableVideoUNet
from vgen.methods import Recipe, VideoModel, assemble
from vgen.methods._sampling import Prompt, Sampling
from vgen.methods.align_your_latents import AlignYourLatents
from vgen.methods.align_your_latents_decoder import AlignYourLatentsDecoder

FRAMES, TOLERANCE = 3, 1e-4
WIDTHS, HEADS, TEXT = (32, 64), (2, 4), 32


@torch.no_grad()
def shaken(net: nn.Module) -> nn.Module:
    """With random numbers in place of its first zeros and halves."""
    torch.manual_seed(3)
    for name, p in net.named_parameters():
        if "mix_factor" in name or p.ndim == 1:
            p.add_(0.3 * torch.randn_like(p))
    return net.eval()


def their_unet(channels: int = 8) -> SpatioTemporalUNet:
    torch.manual_seed(0)
    net = SpatioTemporalUNet(
        sample_size=8,
        in_channels=channels,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        block_out_channels=WIDTHS,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        cross_attention_dim=TEXT,
        num_attention_heads=HEADS,
    )
    shaken(net)
    for p in net.add_embedding.linear_2.parameters():  # frame rate and motion: not read, so not said
        nn.init.zeros_(p)
    return net


def space_of(theirs: SpatioTemporalUNet) -> UNet2DConditionModel:
    """The layers of space alone, as an image UNet."""
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=theirs.config["in_channels"],
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=WIDTHS,
        cross_attention_dim=TEXT,
        attention_head_dim=HEADS,
        use_linear_projection=True,
    )
    named = {name.replace(".spatial_res_block.", "."): value for name, value in theirs.state_dict().items()}
    unet.load_state_dict({name: named[name] for name in unet.state_dict()})
    return unet.eval()


def taken_in(found: Imported, recipe: type[Recipe], model: ImageModel) -> VideoModel:
    """The image model with what was read in it."""
    made = from_plain(recipe, found.knobs)
    video_model = assemble(made, model)
    put(video_model.components(), found.tensors, made.learns())
    return video_model


def test_its_unet_is_diffusers(tiny: ImageModel, tmp_path: Path) -> None:
    theirs = their_unet()
    theirs.save_pretrained(tmp_path / "unet")
    unet = space_of(theirs)
    source = Source("FOLDER", tmp_path)
    assert StableVideoUNet().recognises(source)
    found = StableVideoUNet().read(source, unet, 0)
    video_model = taken_in(found, AlignYourLatents, replace(tiny, unet=unet))
    inserted = sum(p.numel() for p in video_model.unet.inserted.parameters())
    left = [theirs.add_embedding, unet]
    assert inserted == sum(p.numel() for p in theirs.parameters()) - sum(
        p.numel() for net in left for p in net.parameters()
    )
    torch.manual_seed(1)
    x, t, text = torch.randn(2, FRAMES, 8, 8, 8), torch.tensor([7, 700]), torch.randn(2, 5, TEXT)
    with torch.no_grad():
        ours = video_model.unet(x, t, Conditioning(Context(text)))
        expected = theirs(x, t, text, torch.zeros(2, 3), return_dict=False)[0]
        bare = assemble(Recipe(), replace(tiny, unet=copy.deepcopy(space_of(theirs)))).unet
        apart = (bare(x, t, Conditioning(Context(text))) - expected).abs().max()
    assert (ours - expected).abs().max() < TOLERANCE * expected.abs().max()
    assert apart > 0.1, "the layers over frames must matter in this comparison"


def test_its_decoder_is_diffusers(tiny: ImageModel, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = AutoencoderKLTemporalDecoder(
        block_out_channels=WIDTHS, down_block_types=("DownEncoderBlock2D",) * 2, layers_per_block=2
    )
    shaken(theirs)
    theirs.save_pretrained(tmp_path)
    vae = AutoencoderKL(
        block_out_channels=WIDTHS,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=2,
        latent_channels=4,
        use_post_quant_conv=False,
    ).eval()
    named = {name.replace(".spatial_res_block.", "."): value for name, value in theirs.state_dict().items()}
    vae.load_state_dict({name: named[name] for name in vae.state_dict()})
    source = Source("FOLDER", tmp_path)
    found = StableVideoDecoder().read(source, tiny.unet, 0)
    video_model = taken_in(found, AlignYourLatentsDecoder, replace(tiny, vae=vae))
    torch.manual_seed(1)
    latents = torch.randn(2, FRAMES, 4, 8, 8)
    with torch.no_grad():
        ours = video_model.modules["vae"](latents)
        expected = theirs.decode(latents.flatten(0, 1), num_frames=FRAMES).sample.unflatten(0, (2, FRAMES))
        video_model.eject()
        bare = vae.decode(latents[0]).sample
    assert (ours - expected).abs().max() < TOLERANCE * expected.abs().max()
    assert (bare - expected[0]).abs().max() > 0.1, "the layers over frames must matter in this comparison"


def test_the_command_imports_both(tiny: ImageModel, tmp_path: Path) -> None:
    """The file runs in its image model, and opens as an adapter of its method."""
    theirs = their_unet(channels=4)
    theirs.save_pretrained(tmp_path / "video" / "unet")
    model = replace(tiny, unet=space_of(theirs))
    save(model, tmp_path / "image", torch.float32)
    their_vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=2
    )
    their_vae.save_pretrained(tmp_path / "video" / "vae")
    stack = []
    for method in ("align_your_latents", "align_your_latents_decoder"):
        out = str(tmp_path / method / "adapter.safetensors")
        wish = Export(
            source=str(tmp_path / "video"),
            to="vgen",
            out=out,
            backbone=str(tmp_path / "image"),
            method=method,
        )
        assert "stay unread" in " ".join(str(cell) for c in export(wish).columns for cell in c.cells)
        stack.append(StackEntry(name=method, file=out))
    checkpoint = open_checkpoint("none", str(tmp_path / "image"), stack=stack)
    assert isinstance(checkpoint.recipe, AlignYourLatents)
    mixing = {layer.mixing.value for layer in checkpoint.unet.inserted.values()}
    assert mixing == {"sigmoid"}
    small = Sampling(num_frames=2, num_steps=1, guidance=1.0, width_px=64, height_px=64)
    assert checkpoint.sample([Prompt("a red circle", 0)], small).shape == (1, 2, 3, 64, 64)


def test_other_shapes_are_refused(tiny: ImageModel, tmp_path: Path) -> None:
    their_unet().save_pretrained(tmp_path / "unet")
    source = Source("FOLDER", tmp_path)
    with pytest.raises(ValueError, match="layers over frames at other places than the image model's"):
        StableVideoUNet().read(source, tiny.unet, 0)
    with pytest.raises(ValueError, match="have no table, got num_positions=8; leave it out"):
        StableVideoUNet().read(source, tiny.unet, 8)
    with pytest.raises(ValueError, match="holds no AutoencoderKLTemporalDecoder"):
        StableVideoDecoder().read(source, tiny.unet, 0)
