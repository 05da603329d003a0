"""One-file Stable Diffusion checkpoints: unfolded by diffusers' converters, every tensor accounted for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING
from torch import Tensor

from vgen.app.export import Export, export
from vgen.backbones.blank import Blank
from vgen.backbones.image_model import ImageModel
from vgen.backbones.image_model_folder import load, save
from vgen.formats import single_file, state_file
from vgen.formats.state_file import Container

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
TABLES = DIFFUSERS_TO_LDM_MAPPING["unet"]
OUTER = TABLES["layers"] | TABLES["addition_embed_type"] | DIFFUSERS_TO_LDM_MAPPING["vae"]
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
OPEN_CLIP_OUTER = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}


def unet_name(name: str, first_plain: bool, layers: int = 2) -> str:
    """diffusers to LDM, by hand: a second reading of the layout that the converters know in the other
    direction."""
    if name in OUTER:
        return OUTER[name]
    if m := re.fullmatch(
        r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", name
    ):
        way, block, kind, index, rest = m[1], int(m[2]), m[3], int(m[4]), m[5]
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            return f"output_blocks.{block * (layers + 1) + layers}.{1 if block == 0 and first_plain else 2}.{rest}"  # noqa: E501
        number = (
            f"input_blocks.{1 + block * (layers + 1) + index}"
            if way == "down"
            else f"output_blocks.{block * (layers + 1) + index}"
        )
        return f"{number}.{1 if kind == 'attentions' else 0}.{_inner(rest)}"
    m = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name)
    return f"middle_block.{1 if m[1] == 'attentions' else 2 * int(m[2])}.{_inner(m[3])}"


def _inner(rest: str) -> str:
    part, _, kind = rest.rpartition(".")
    return f"{RESNET[part]}.{kind}" if part in RESNET else rest


def vae_name(name: str, levels: int = 4) -> str:
    if name in OUTER:
        return OUTER[name]
    name = (
        re.sub(r"up_blocks\.(\d)\.", lambda m: f"up.{levels - 1 - int(m[1])}.", name)
        .replace("down_blocks.", "down.")
        .replace("resnets.", "block.")
    )
    name = re.sub(r"mid_block\.block\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name).replace(
        "mid_block.attentions.0", "mid.attn_1"
    )
    name = (
        name.replace("conv_shortcut", "nin_shortcut")
        .replace("downsamplers.0", "downsample")
        .replace("upsamplers.0", "upsample")
    )
    for ours, theirs in (
        ("group_norm", "norm"),
        ("to_q", "q"),
        ("to_k", "k"),
        ("to_v", "v"),
        ("to_out.0", "proj_out"),
    ):
        name = name.replace(f"attn_1.{ours}.", f"attn_1.{theirs}.")
    return name


def open_clip(encoder: torch.nn.Module) -> dict[str, Tensor]:
    """OpenCLIP keeps q, k and v in one matrix and its projection transposed."""
    out, state = {}, {n.removeprefix("text_model."): v for n, v in encoder.state_dict().items()}
    for name, value in state.items():
        if name in OPEN_CLIP_OUTER:
            out[OPEN_CLIP_OUTER[name]] = value
        elif name == "text_projection.weight":
            out["text_projection"] = value.T
        elif m := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", name):
            out[f"transformer.resblocks.{m[1]}.attn.in_proj_{m[2]}"] = torch.cat(
                [state[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
            )
        elif (m := re.fullmatch(r"encoder\.layers\.(\d+)\.(.*)\.(weight|bias)", name)) and m[2] in OPEN_CLIP:
            out[f"transformer.resblocks.{m[1]}.{OPEN_CLIP[m[2]]}.{m[3]}"] = value
    return out


def one_file(model: ImageModel) -> dict[str, Tensor]:
    first_plain = "CrossAttn" not in model.unet.config.up_block_types[0]
    state = {
        f"model.diffusion_model.{unet_name(n, first_plain)}": v for n, v in model.unet.state_dict().items()
    }
    for name, value in model.vae.state_dict().items():
        turned = vae_name(name)
        state[f"first_stage_model.{turned}"] = (
            value[..., None, None]
            if "attn_1" in turned and turned.endswith("weight") and value.ndim == 2
            else value
        )
    clip = "conditioner.embedders.0.transformer" if model.is_sdxl else "cond_stage_model.transformer"
    for name, value in model.text_encoders[0].state_dict().items():
        state[f"{clip}.text_model.{name.removeprefix('text_model.')}"] = value
    if model.is_sdxl:
        state |= {
            f"conditioner.embedders.1.model.{n}": v for n, v in open_clip(model.text_encoders[1]).items()
        }
    return state | {
        "alphas_cumprod": torch.zeros(3),
        f"{clip}.text_model.embeddings.position_ids": torch.arange(77)[None],
    }


def configurations(model: ImageModel, folder: Path) -> Path:
    """A diffusers folder without its weights."""
    save(model, folder, torch.float32)
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    return folder


@pytest.fixture(scope="module")
def folder(bench, tmp_path_factory):
    """Configurations, and the same model as one file."""
    folder, model = tmp_path_factory.mktemp("ldm"), bench.model(Blank.SD15_NARROW)
    configurations(model, folder / "configs")
    state_file.write(folder / "sd.safetensors", one_file(model), Container.SAFETENSORS)
    torch.save({"state_dict": one_file(model)}, folder / "sd.ckpt")
    return folder


def assert_same(found: ImageModel, model: ImageModel) -> None:
    for part, module in model.components().items():
        arrived = found.components()[part].state_dict()
        assert all(torch.equal(arrived[n], v) for n, v in module.state_dict().items()), part


@pytest.mark.parametrize("name", ["sd.safetensors", "sd.ckpt"])
def test_every_tensor_of_sd1_arrives(bench, folder, name):
    found = single_file.load(folder / name, folder / "configs")
    assert_same(found, bench.model(Blank.SD15_NARROW))
    assert not any(p.requires_grad for module in found.modules() for p in module.parameters())


def test_every_tensor_of_sdxl_arrives(bench, tmp_path):
    """Two text encoders, the second under OpenCLIP's names."""
    model = bench.model(Blank.SDXL_NARROW)
    state_file.write(tmp_path / "xl.safetensors", one_file(model), Container.SAFETENSORS)
    assert_same(
        single_file.load(tmp_path / "xl.safetensors", configurations(model, tmp_path / "configs")), model
    )


def test_the_command_unfolds_a_file(bench, folder, tmp_path):
    export(
        Export(
            source=str(folder / "sd.ckpt"),
            to="image_model",
            backbone=str(folder / "configs"),
            out=str(tmp_path / "sd"),
        )
    )
    assert_same(load(tmp_path / "sd"), bench.model(Blank.SD15_NARROW))


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        ("model.diffusion_model.", "holds no UNet under the names"),
        (
            "model.diffusion_model.middle_block.1.norm.",
            "the UNet of .* 2 missing: mid_block.attentions.0.norm.weight",
        ),
        ("first_stage_model.decoder.conv_out", "the VAE of .* 2 missing"),
        ("cond_stage_model.transformer.text_model.final_layer_norm", "text encoder 1 of .* 2 missing"),
    ],
)
def test_what_is_missing_is_named(bench, folder, tmp_path, drop, message):
    state = {n: v for n, v in one_file(bench.model(Blank.SD15_NARROW)).items() if not n.startswith(drop)}
    state_file.write(tmp_path / "cut.safetensors", state, Container.SAFETENSORS)
    with pytest.raises(ValueError, match=message):
        single_file.load(tmp_path / "cut.safetensors", folder / "configs")


def test_configurations_of_another_family_are_refused(bench, folder, tmp_path):
    save(bench.model(Blank.TOYBOX), tmp_path / "toybox", torch.float32)
    with pytest.raises(ValueError, match=r"the UNet of .* is not what .*toybox describes"):
        single_file.load(folder / "sd.safetensors", tmp_path / "toybox")
    with pytest.raises(ValueError, match=r"lacks unet/config.json"):
        single_file.load(folder / "sd.safetensors", tmp_path)
