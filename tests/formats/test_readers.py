"""What other programs take an exported file for; diffusers' rule is checked against diffusers itself."""

from __future__ import annotations

import pytest
from diffusers.loaders.single_file_utils import infer_diffusers_model_type

from vgen.backbones.blank import Blank
from vgen.formats import animatediff
from vgen.formats.animatediff import Version
from vgen.formats.readers import Reader, identify

PUBLISHED = [
    (4, False, 24, Version.V1, "animatediff_v1"),
    (4, True, 32, Version.V2, "animatediff_v2"),
    (4, False, 32, Version.V3, "animatediff_v3"),
    (3, False, 32, Version.SDXL, "animatediff_sdxl_beta"),
]


@pytest.mark.parametrize(("levels", "mid_block", "rows", "version", "theirs"), PUBLISHED)
def test_every_reader_sees_the_published_version(bench, levels, mid_block, rows, version, theirs):
    unet = bench.wide(levels)
    state = animatediff.export(bench.modules(unet, mid_block), unet, rows)
    for reader, sight in identify(state).items():
        assert (sight.version, sight.loads) == (version, True), reader
    assert infer_diffusers_model_type(state) == theirs


def test_what_the_original_trainer_saves_is_read_by_nobody(bench):
    unet = bench.wide(4)
    state = animatediff.export(bench.modules(unet, False), unet, 24)
    bare = {name: value for name, value in state.items() if not name.endswith(".pe")}
    seen = identify({f"module.{name}": value for name, value in bare.items()})
    assert not any(sight.loads for sight in seen.values())
    assert "0 down blocks" in seen[Reader.COMFYUI].remark
    assert "every key starts with module." in str(seen[Reader.A1111])
    assert infer_diffusers_model_type({f"module.{n}": v for n, v in bare.items()}) == "v1"
    assert str(identify(bare)[Reader.COMFYUI]) == "not recognised, does not load: without pos_encoder.pe it is taken for AnimateLCM"


def test_shapes_of_no_published_model_are_said_to_load_nowhere(bench):
    unet = bench.model(Blank.TOYBOX).unet
    state = animatediff.export(bench.modules(unet, False), unet, 32)
    seen = identify(state)
    assert not any(sight.loads for sight in seen.values())
    assert str(seen[Reader.COMFYUI]) == "SDXL, does not load: it expects 320/640/1280 channels, the file has 48/96/128"


def test_a_conv_in_makes_it_pia(bench):
    unet = bench.wide(4)
    state = animatediff.export(bench.modules(unet, False), unet, 32) | {"conv_in.weight": unet.conv_in.weight}
    assert "PIA" in str(identify(state)[Reader.COMFYUI])
    assert not identify(state)[Reader.A1111].loads
