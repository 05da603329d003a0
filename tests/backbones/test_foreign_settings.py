"""A model folder of another person: its configurations name no program and end somewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vgen.backbones.blank import Blank, blank
from vgen.backbones.foreign_settings import read_settings, refuse_programs
from vgen.backbones.image_model_folder import load, save
from vgen.backbones.skeleton import skeleton


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(blank(Blank.TOYBOX, seed=3), tmp_path / "model")
    return tmp_path / "model"


def told(folder: Path, part: str, **more: object) -> None:
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


KERNELS = {
    "kernel": {"_attn_implementation": "owner/name"},
    "kernel by its inner name": {"_attn_implementation_internal": "owner/name@main:fast"},
    "kernel of a part": {"text_config": {"attn_implementation": "owner/name"}},
    "kernels by part": {"attn_implementation": {"": "owner/name"}},
}


@pytest.mark.parametrize("opened", [load, skeleton])
@pytest.mark.parametrize("asked", KERNELS)
def test_a_kernel_from_a_hub_is_refused_by_name(folder, opened, asked):
    told(folder, "text_encoder", **KERNELS[asked])
    with pytest.raises(ValueError, match=r"asks for .*owner/name.*, a kernel from a hub, which would be"):
        opened(folder)


@pytest.mark.parametrize("part", ["text_encoder", "unet", "vae"])
def test_quantised_weights_are_refused_by_name(folder, part):
    told(folder, part, quantization_config={"quant_method": "bitsandbytes_4bit"})
    with pytest.raises(
        ValueError, match=rf"{part}/config.json has a quantization_config, and vgen reads plain"
    ):
        load(folder)


def test_a_configuration_has_no_say_in_how_attention_is_computed(folder):
    told(folder, "text_encoder", _attn_implementation="eager")
    found = {
        opened.__name__: opened(folder).text_encoders[0].config._attn_implementation
        for opened in (load, skeleton)
    }
    assert found == {"load": "sdpa", "skeleton": "sdpa"}


@pytest.mark.parametrize("depth", [50_000, 2_000_000])
def test_a_configuration_without_end_is_one_sentence(tmp_path, depth):
    (tmp_path / "config.json").write_text('{"a": ' + "[" * depth + "]" * depth + "}")
    with pytest.raises(ValueError, match=r"config.json can't be read \(it is nested too deeply\)"):
        refuse_programs(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="must hold an object, got a list"):
        read_settings(tmp_path / "config.json")
    (tmp_path / "config.json").write_text(" " * (1 << 24) + "{}")
    with pytest.raises(ValueError, match="more than 16,777,216 bytes"):
        read_settings(tmp_path / "config.json")
