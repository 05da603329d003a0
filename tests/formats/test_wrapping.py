"""What other programs put around tensors is taken off and named; what is no motion module is called what it
is."""

from __future__ import annotations

import json
import re

import pytest
import torch
from diffusers import MotionAdapter

from vgen.backbones.blank import Blank
from vgen.formats import animatediff, diffusers_motion, low_rank
from vgen.formats.low_rank_names import UNET
from vgen.formats.wrapping import unwrapped, what_it_is

ONE = torch.zeros(1)
WRAPPED = {
    "a trainer's model": (("model",), ""),
    "deepspeed's module": (("module",), ""),
    "an average": (("ema_state_dict",), ""),
    "a compiled net": (("state_dict",), "_orig_mod."),
    "a compiled net on several devices": (("model", "state_dict"), "module._orig_mod."),
    "a pipeline's part": ((), "unet."),
    "a Lightning model": (("state_dict",), "model.unet."),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_what_is_around_a_motion_module_comes_off_and_is_said(bench, case):
    unet, (wrappers, prefix) = bench.model(Blank.TOYBOX).unet, WRAPPED[case]
    sidecar = bench.modules(unet, False)
    entries = {f"{prefix}{n}": v for n, v in animatediff.export(sidecar, unet, 32).items()}
    for name in reversed(wrappers):
        entries = {name: entries, "epoch": 3}
    assert animatediff.recognises(entries)
    found = animatediff.import_(entries, unet)
    assert found.tensors.keys() == sidecar.keys()
    assert all(torch.equal(found.tensors[n], v) for n, v in sidecar.items())
    assert all(word in found.origin for word in ("/".join(wrappers), prefix))
    assert ("epoch" in " ".join(found.notes)) is bool(wrappers)
    said = str(unwrapped(entries))
    assert all(word in said for word in ("/".join(wrappers), prefix))


def test_bare_tensors_have_nothing_around_them():
    found = unwrapped({"down_blocks.0.weight": ONE, "unet.up_blocks.0.weight": ONE})
    assert (str(found), list(found.state)) == ("", ["down_blocks.0.weight", "unet.up_blocks.0.weight"])


ATTENTION = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0"
FILES = {
    "a motion LoRA": {"state_dict": {f"module.{ATTENTION}.processor.to_q_lora.down.weight": ONE}},
    "a SparseCtrl condition encoder": {
        f"module.{ATTENTION}.to_q.weight": ONE,
        "module.controlnet_cond_embedding.conv_in.weight": ONE,
    },
    "a ControlNet": {"control_model.zero_convs.0.0.weight": ONE},
    "a HotShot-XL temporal layer file": {"down_blocks.1.temporal_attentions.0.norm.weight": ONE},
    "a LoRA of an image model": {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": ONE},
    "an IP-Adapter": {"image_proj": {"proj.weight": ONE}, "ip_adapter": {"1.to_k_ip.weight": ONE}},
    "a whole Stable Diffusion checkpoint": {"state_dict": {"model.diffusion_model.out.2.bias": ONE}},
    "a ModelScope video UNet": {"down_blocks.0.temp_convs.0.conv1.0.weight": ONE},
    "a Tune-A-Video UNet": {"down_blocks.0.attentions.0.transformer_blocks.0.attn_temp.to_q.weight": ONE},
    "a text embedding": {"string_to_param": {"*": ONE}},
    "a VAE": {"encoder.conv_in.weight": ONE, "decoder.conv_in.weight": ONE},
    "a whole image UNet without motion modules": {"time_embedding.linear_1.weight": ONE},
    "": {"something.weight": ONE},
}


@pytest.mark.parametrize("kind", FILES)
def test_what_is_no_motion_module_is_called_what_it_is(bench, kind):
    assert what_it_is(FILES[kind]) == kind
    if kind in ("a HotShot-XL temporal layer file", "a whole image UNet without motion modules"):
        with pytest.raises(ValueError, match=f"the file is {kind} and holds no motion module"):
            animatediff.import_(FILES[kind], bench.model(Blank.TOYBOX).unet)


def test_a_motion_lora_that_is_cut_is_still_called_one(bench):
    with pytest.raises(ValueError, match=r"^it is a motion LoRA of which 1 of 1 low-rank layers lack"):
        low_rank.read(FILES["a motion LoRA"], {UNET: bench.model(Blank.TOYBOX).unet}, {})


def test_at_most_five_names_are_listed(bench):
    with pytest.raises(ValueError, match="holds no motion module") as caught:
        animatediff.import_({f"layer.{n}": ONE for n in range(40)}, bench.model(Blank.TOYBOX).unet)
    assert len(re.findall(r"layer\.\d+", str(caught.value))) == 5
    assert "and 35 more" in str(caught.value)


@pytest.mark.parametrize("kind", ["sharded", "sharded fp16", "fp16.bin", "bin", "fp16.safetensors"])
def test_motion_adapters_as_people_save_them(bench, tmp_path, kind):
    unet = bench.model(Blank.TOYBOX).unet
    sidecar, arguments = bench.modules(unet, False), _arguments(unet)
    diffusers_motion.write(tmp_path / "plain", sidecar, unet, arguments)
    adapter = MotionAdapter.from_pretrained(tmp_path / "plain", low_cpu_mem_usage=False)
    half = "fp16" in kind
    if half:
        adapter.half()
    adapter.save_pretrained(
        tmp_path / "theirs",
        variant="fp16" if half else None,
        safe_serialization="bin" not in kind,
        max_shard_size="1MB" if "sharded" in kind else "10GB",
    )
    assert bool(list((tmp_path / "theirs").glob("*.index*.json"))) is ("sharded" in kind)
    state, said = diffusers_motion.read(tmp_path / "theirs")
    found = diffusers_motion.import_(state, said, unet).tensors
    wanted = {n: v.half() if half else v for n, v in sidecar.items()}
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[n], v) for n, v in wanted.items())


def _arguments(unet) -> dict:
    motion = {"heads": 8, "num_blocks": 1, "num_attentions": 2, "num_positions": 32}
    return diffusers_motion.config(unet, motion, mid_block=False)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "gone.safetensors"}}, "names the shard gone.safetensors, which is not beside"),
        ({"weight_map": {"a": "../gone.safetensors"}}, r"must name files beside it, got \['../gone"),
        ({}, "has no weight_map of names and files"),
    ],
)
def test_an_index_that_does_not_hold_is_named(bench, tmp_path, index, message):
    diffusers_motion.write(tmp_path / "a", *_written(bench))
    (tmp_path / "a" / diffusers_motion.WEIGHTS).unlink()
    (tmp_path / "a" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=message):
        diffusers_motion.read(tmp_path / "a")


def _written(bench) -> tuple:
    unet = bench.model(Blank.TOYBOX).unet
    return bench.modules(unet, False), unet, _arguments(unet)
