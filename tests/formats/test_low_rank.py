"""Files of low-rank layers: every naming is read, what is written reads back, diffusers computes the same on
them, and what fits nothing is refused with counts."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AnimateDiffPipeline,
    DDIMScheduler,
    MotionAdapter,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from torch import Tensor

from vgen.app.plain import from_plain
from vgen.backbones.blank import Blank, blank, blank_unet
from vgen.backbones.conditioning import Conditioning
from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import Kind, sites
from vgen.formats import diffusers_motion, low_rank, low_rank_names, proof
from vgen.formats.adapter import plain, put
from vgen.formats.animatediff import INNER
from vgen.formats.low_rank import Pair, Place
from vgen.formats.low_rank_files import AdapterFile, KohyaFile, LowRankFolder
from vgen.layers.norm import NormScope
from vgen.methods import VideoModel, assemble, given_low_rank
from vgen.methods._assembly import Part, assemble_stack
from vgen.methods._low_rank import ATTENTION, text_and_unet
from vgen.methods.animatediff import AnimateDiff
from vgen.methods.lora import Lora

PROMPTS = ["a large red circle", "a small blue star"]
ATTENDING = re.compile(r".*\.attn[12]\.to_(q|k|v|out\.0)")
KOHYA = re.compile(r".*(to_[qkv]|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2|conv1|conv_shortcut)")


@pytest.fixture
def sd() -> ImageModel:
    return blank(Blank.SD15_NARROW, seed=0).freeze()


def leaves(net: torch.nn.Module, wanted: re.Pattern[str]) -> dict[str, torch.nn.Module]:
    kinds = (Kind.LINEAR, Kind.CONV)
    paths = [site.path for site in sites(net) if site.kind in kinds and wanted.fullmatch(site.path)]
    return {path: net.get_submodule(path) for path in paths}


def pairs_for(into: str, net: torch.nn.Module, wanted: re.Pattern[str], rank: int = 3) -> list[Pair]:
    """Layers that all have something to say, with an alpha that is not the rank."""
    draw = torch.Generator().manual_seed(4)
    out = []
    for path, module in leaves(net, wanted).items():
        weight = module.weight
        assert isinstance(weight, Tensor)
        narrow = (len(weight), rank, *[1] * (weight.ndim - 2))
        down = 0.1 * torch.randn((rank, *weight.shape[1:]), generator=draw)
        out.append(Pair(Place(into, path), down, 0.1 * torch.randn(narrow, generator=draw), 1.5))
    return out


def image_pairs(model: ImageModel) -> list[Pair]:
    words = re.compile(r".*(q_proj|v_proj|out_proj|fc1)")
    own = pairs_for("unet", model.unet, KOHYA)
    return own + pairs_for("text_encoder", model.text_encoders[0], words)


def motion_pairs(unet: UNet2DConditionModel) -> list[Pair]:
    shapes = {
        name: value
        for name, value in state_of_motion(unet).items()
        if re.search(r"attention_blocks\.\d\.to_(q|k|v|out\.0)\.weight", name)
    }
    draw = torch.Generator().manual_seed(6)
    out = []
    for name, value in shapes.items():
        place = Place("unet.inserted", name.removeprefix("unet.").removesuffix(".weight"))
        down, up = (0.2 * torch.randn(s, generator=draw) for s in ((3, value.shape[1]), (len(value), 3)))
        out.append(Pair(place, down, up, 3.0))
    return out


def state_of_motion(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    from vgen.formats.motion_names import Depth, homes, shapes

    draw = torch.Generator().manual_seed(3)
    out = {}
    for home in homes(unet):
        if not home.in_middle:
            for tail, shape in shapes(home.channels, Depth(1, 2)).items():
                scale = 0.1 if len(shape) > 1 else 0.3
                extra = float("norm" in tail and tail.endswith("weight"))
                value = torch.randn(shape, generator=draw) * scale + extra
                out[f"{home.sidecar}.{INNER}.{tail}"] = value
    return out


def as_kohya(pairs: list[Pair], unet: UNet2DConditionModel) -> dict[str, Tensor]:
    return KohyaFile().state(pairs, unet)


def as_peft(pairs: list[Pair], unet: UNet2DConditionModel) -> dict[str, Tensor]:
    return LowRankFolder().state(pairs, unet)


def as_old_diffusers(pairs: list[Pair], unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """As ``save_attn_procs`` wrote them; text by its old names."""
    words = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
    out = {}
    for pair in pairs:
        owner, _, last = low_rank_names.diffusers(pair.place, unet).removesuffix(".0").rpartition(".")
        if pair.place.into == "unet" and ATTENDING.fullmatch(pair.place.path):
            name = f"{owner}.processor.{last}_lora"
        elif last in words:
            name = f"{owner}.{words[last]}_lora"
        elif pair.place.into == "unet":
            name = f"{low_rank_names.diffusers(pair.place, unet)}.lora"
        else:
            name = f"{owner}.{last}.lora_linear_layer"
        out[f"{name}.down.weight"], out[f"{name}.up.weight"] = pair.down, pair.up * pair.alpha / pair.rank
    return out


def as_original_unet(pairs: list[Pair], unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """As kohya's scripts train SDXL: on the original UNet, whose blocks have other numbers."""
    out = {}
    for name, value in as_kohya([p for p in pairs if p.place.into == "unet"], unet).items():
        head, _, rest = name.partition(".")
        out[f"{_original(head)}.{rest}"] = value
    return out


def _original(name: str) -> str:
    for ours, theirs in {
        "conv1": "in_layers_2",
        "conv2": "out_layers_3",
        "time_emb_proj": "emb_layers_1",
        "conv_shortcut": "skip_connection",
    }.items():
        name = name.replace(ours, theirs)
    found = re.match(r"lora_unet_(down|mid|up)_blocks?_(?:(\d)_)?(resnets|attentions)_(\d)_(.*)", name)
    assert found
    side, level, kind, index, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
    second = int(kind == "attentions")
    if side == "down":
        return f"lora_unet_input_blocks_{1 + 3 * level + index}_{second}_{rest}"
    if side == "mid":
        return f"lora_unet_middle_block_{1 if second else 2 * index}_{rest}"
    return f"lora_unet_output_blocks_{3 * level + index}_{second}_{rest}"


Naming = Callable[[list[Pair], UNet2DConditionModel], dict[str, Tensor]]
NAMINGS: dict[str, Naming] = {
    "kohya": as_kohya,
    "peft": as_peft,
    "old diffusers": as_old_diffusers,
    "original unet": as_original_unet,
}


def delta(pair: Pair) -> Tensor:
    return pair.alpha / pair.rank * (pair.up.flatten(1) @ pair.down.flatten(1))


@pytest.mark.parametrize("naming", NAMINGS.values(), ids=list(NAMINGS))
def test_every_naming_is_read(naming: Naming, sd: ImageModel) -> None:
    pairs = image_pairs(sd)
    state = naming(pairs, sd.unet)
    found = low_rank.read(state, text_and_unet(sd), {})
    nets = {"unet"} if naming is as_original_unet else {"unet", "text_encoder"}
    wanted = {pair.place: delta(pair) for pair in pairs if pair.place.into in nets}
    assert {pair.place for pair in found} == set(wanted)
    for pair in found:
        torch.testing.assert_close(delta(pair), wanted[pair.place])


def test_prefixes_and_wrappers_of_published_files_come_off(sd: ImageModel) -> None:
    pairs = pairs_for("unet", sd.unet, ATTENDING)
    state = AdapterFile(temporal=False).state(pairs, sd.unet)
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}
    assert len(low_rank.read(wrapped, text_and_unet(sd), {})) == len(pairs)
    peft = {f"base_model.model.{n.removeprefix('unet.')}": v for n, v in as_peft(pairs, sd.unet).items()}
    assert len(low_rank.read(peft, text_and_unet(sd), {})) == len(pairs)


def test_alpha_of_diffusers_metadata_counts(sd: ImageModel) -> None:
    pairs = pairs_for("unet", sd.unet, ATTENDING)
    said = {"lora_adapter_metadata": '{"unet.r": 3, "unet.lora_alpha": 6}'}
    found = low_rank.read(as_peft(pairs, sd.unet), text_and_unet(sd), said)
    assert {pair.alpha for pair in found} == {6.0}


def test_an_adapters_layers_are_those_of_its_file(sd: ImageModel) -> None:
    pairs = image_pairs(sd)
    tensors, recipe = given_low_rank(as_kohya(pairs, sd.unet), {}, sd)
    again = {pair.place: pair for pair in low_rank.pairs_of(tensors, plain_of(recipe))}
    assert len(again) == len(pairs)
    for pair in pairs:
        assert torch.equal(again[pair.place].down, pair.down)
        assert again[pair.place].alpha == pair.alpha
    assert from_plain(Lora, plain_of(recipe)) == recipe


def plain_of(recipe: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return plain(asdict(recipe))


# -- the same numbers as diffusers ---------------------------------------------------------------------------
def with_layers(model: ImageModel, state: dict[str, Tensor], scale: float, *below: Part) -> VideoModel:
    tensors, recipe = given_low_rank(state, {}, model)
    video_model = assemble_stack([*below, Part("toon", recipe, scale)], model)
    put(video_model.components(), tensors, recipe.learns(), "loras.toon", "toon")
    return video_model


def pipeline_of(model: ImageModel) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=model.vae,
        text_encoder=model.text_encoders[0],
        tokenizer=model.tokenizer,
        unet=model.unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
    )


@pytest.mark.parametrize("naming", [as_kohya, as_peft], ids=["kohya", "peft"])
@torch.no_grad()
def test_image_loras_agree_with_diffusers(naming: Naming, sd: ImageModel, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="diffusers loads LoRA through peft, which is not installed here")
    theirs = copy.deepcopy(sd)
    state = naming(image_pairs(sd), sd.unet)
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "toon.safetensors")
    pipe = pipeline_of(theirs)
    pipe.load_lora_weights(str(tmp_path), weight_name="toon.safetensors", adapter_name="toon")
    pipe.set_adapters(["toon"], [0.7])
    video_model, ids = with_layers(sd, state, 0.7), theirs.tokenize(PROMPTS)
    video_model.to("cpu", torch.float64)  # a random net makes much of rounding
    for net in (pipe.unet, pipe.text_encoder):
        torch.nn.Module.to(net, torch.float64)
    expected = pipe.text_encoder(ids).last_hidden_state
    words = sd.encode_text(PROMPTS)
    torch.testing.assert_close(words.tokens, expected, atol=1e-9, rtol=1e-9)
    x = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = torch.tensor([7, 700])
    out = video_model.unet(x, t, Conditioning(words))[:, 0]
    torch.testing.assert_close(out, pipe.unet(x[:, 0], t, expected).sample, atol=1e-9, rtol=1e-9)
    video_model.eject()
    assert (sd.unet(x[:, 0], t, words.tokens).sample - out).abs().max() > 0.01


@pytest.mark.parametrize("stage", ["motion", "domain"])
@torch.no_grad()
def test_stages_of_animatediff_agree_with_diffusers(stage: str, sd: ImageModel, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="diffusers loads LoRA through peft, which is not installed here")
    motion = AnimateDiff()
    motion.motion.norm_scope = NormScope.CLIP
    module, theirs = state_of_motion(sd.unet), copy.deepcopy(sd)
    arguments = diffusers_motion.config(sd.unet, plain_of(motion)["motion"], False)
    diffusers_motion.write(tmp_path / "module", module, sd.unet, arguments)
    pairs = motion_pairs(sd.unet) if stage == "motion" else pairs_for("unet", sd.unet, ATTENDING)
    exported = LowRankFolder().state(pairs, sd.unet)
    save_file({n: v.contiguous() for n, v in exported.items()}, tmp_path / "stage.safetensors")
    pipe = AnimateDiffPipeline(
        vae=theirs.vae,
        text_encoder=theirs.text_encoders[0],
        tokenizer=theirs.tokenizer,
        unet=theirs.unet,
        motion_adapter=MotionAdapter.from_pretrained(tmp_path / "module", low_cpu_mem_usage=False),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
    )
    pipe.load_lora_weights(str(tmp_path), weight_name="stage.safetensors", adapter_name="stage")
    pipe.set_adapters(["stage"], [0.8])
    given = proof.inputs(sd.unet, 3)
    text = given.context.tokens.repeat_interleave(3, 0)
    expected = pipe.unet(given.x.transpose(1, 2), given.t, text).sample.transpose(1, 2)
    silent = assemble(motion, copy.deepcopy(sd))
    put(silent.components(), module, motion.learns())
    video_model = with_layers(sd, exported, 0.8, Part("", motion))
    put(video_model.components(), module, motion.learns())
    out = proof.ours(video_model.unet, given)
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=1e-4)
    assert (proof.ours(silent.unet, given) - out).abs().max() > 1e-3


# -- names of the published files ----------------------------------------------------------------------------
def published(stage: str) -> tuple[list[str], UNet2DConditionModel]:
    """v2_lora_*.ckpt: 21 modules of two attentions; v3_sd15_adapter.ckpt: 16 blocks of two."""
    with torch.device("meta"):
        unet = blank_unet(Blank.SD15)
    places = {"down": [2, 2, 2, 2], "mid": [1], "up": [3, 3, 3, 3]}
    spatial = {"down": [2, 2, 2, 0], "mid": [1], "up": [0, 3, 3, 3]}
    out = []
    for side, counts in (places if stage == "motion" else spatial).items():
        for level, count in enumerate(counts):
            block = "mid_block" if side == "mid" else f"{side}_blocks.{level}"
            for i in range(count):
                for k in (0, 1):
                    if stage == "motion":
                        inner = f"motion_modules.{i}.{INNER}.transformer_blocks.0.attention_blocks.{k}"
                    else:
                        inner = f"attentions.{i}.transformer_blocks.0.attn{k + 1}"
                    for name in ("to_q", "to_k", "to_v", "to_out"):
                        for half in ("down", "up"):
                            out.append(f"{block}.{inner}.processor.{name}_lora.{half}.weight")
    return out, unet


@pytest.mark.parametrize(("stage", "tensors"), [("motion", 336), ("domain", 256)])
def test_published_names_are_recognised(stage: str, tensors: int) -> None:
    names, unet = published(stage)
    assert len(names) == tensors
    assert low_rank.recognises(names)
    places = low_rank_names.Places({"unet": unet})
    found = {places.find(name.module) for name in map(low_rank_names.parted, names) if name}
    assert None not in found
    assert len(found) == tensors // 2
    back = [low_rank_names.animatediff(place, unet) for place in found if place]
    assert {path.removesuffix(".0") for path in back} == {
        n.replace(".processor.", ".").partition("_lora.")[0] for n in names
    }


# -- what is refused -----------------------------------------------------------------------------------------
def refused(model: ImageModel, state: dict[str, Tensor], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        low_rank.read(state, text_and_unet(model), {})


def test_names_that_match_nothing_are_refused_with_counts(sd: ImageModel) -> None:
    state = as_kohya(pairs_for("unet", sd.unet, ATTENDING), sd.unet)
    lost = {name.replace("attentions_0", "attentions_7"): value for name, value in state.items()}
    refused(sd, lost, r"\d+ of its 128 low-rank layers match nothing in the image model \(first: lora_unet_")


def test_a_lora_of_another_family_is_refused_by_shape(sd: ImageModel) -> None:
    wide = blank(Blank.TOYBOX).freeze()
    pairs = pairs_for("unet", wide.unet, ATTENDING)
    refused(sd, as_kohya(pairs, wide.unet), "have other shapes than the image model's|match nothing")
    state = as_kohya(pairs_for("unet", sd.unet, ATTENDING), sd.unet)
    wider = {
        n: torch.cat([v, v], 1) if n.endswith("attn2_to_k.lora_down.weight") else v for n, v in state.items()
    }
    refused(
        sd, wider, r"16 of its 128 low-rank layers have other shapes .* from 64 to 32 channels, here from 32"
    )


def test_other_kinds_of_layers_are_refused_by_name(sd: ImageModel) -> None:
    state = as_kohya(pairs_for("unet", sd.unet, ATTENDING), sd.unet)
    first = next(iter(state)).partition(".")[0]
    refused(sd, state | {f"{first}.dora_scale": torch.ones(1)}, "it holds DoRA, which are no low-rank pairs")
    refused(sd, state | {f"{first}.hada_w1_a": torch.ones(1)}, "it holds LoHa")


def test_a_file_that_is_cut_is_refused(sd: ImageModel) -> None:
    state = as_kohya(pairs_for("unet", sd.unet, ATTENDING), sd.unet)
    state.pop(next(iter(state)))
    refused(sd, state, "1 of 128 low-rank layers lack their down or up half")


def test_a_checkpoint_is_no_lora(sd: ImageModel) -> None:
    refused(sd, sd.unet.state_dict(), r"\d+ of its \d+ tensors belong to no low-rank layer")


def test_attention_is_what_is_trained_where_nothing_is_said() -> None:
    assert Lora().targets[0].paths == ATTENTION
