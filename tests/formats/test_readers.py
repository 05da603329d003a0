"""What other programs take an exported file for; diffusers' rule is checked against diffusers itself."""

from __future__ import annotations

import pytest
from diffusers.loaders.single_file_utils import infer_diffusers_model_type

from vgen.backbones.blank import Blank
from vgen.formats import animatediff
from vgen.formats.animatediff import Layout, Version
from vgen.formats.readers import Reader, identify, unsaid

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
    assert (
        str(identify(bare)[Reader.COMFYUI])
        == "not recognised, does not load: without pos_encoder.pe it is taken for AnimateLCM"
    )


def test_shapes_of_no_published_model_are_said_to_load_nowhere(bench):
    unet = bench.model(Blank.TOYBOX).unet
    state = animatediff.export(bench.modules(unet, False), unet, 32)
    seen = identify(state)
    assert not any(sight.loads for sight in seen.values())
    assert (
        str(seen[Reader.COMFYUI])
        == "SDXL, does not load: it expects 320/640/1280 channels, the file has 48/96/128"
    )


def test_a_conv_in_makes_it_pia(bench):
    unet = bench.wide(4)
    state = animatediff.export(bench.modules(unet, False), unet, 32) | {"conv_in.weight": unet.conv_in.weight}
    assert "PIA" in str(identify(state)[Reader.COMFYUI])
    assert not identify(state)[Reader.A1111].loads


MOTION = {"heads": 8, "num_attentions": 2, "num_blocks": 1}


@pytest.mark.parametrize(("levels", "mid_block", "rows", "version", "theirs"), PUBLISHED)
def test_of_published_knobs_nothing_has_to_be_said(bench, levels, mid_block, rows, version, theirs):
    layout = Layout(version=version, channels=(), mid_block=mid_block, num_positions=rows)
    assert unsaid(layout, {**MOTION, "num_positions": rows}, animatediff.implied(layout)["schedule"]) == {}


@pytest.mark.parametrize(
    ("motion", "betas", "what", "words"),
    [
        (
            {"heads": 4},
            {},
            "attention heads",
            ["4, where AnimateDiff v3 has 8", "num_attention_heads=4", "MotionAdapter", "always have 8"],
        ),
        (
            {"num_attentions": 3},
            {},
            "attentions per block",
            ["attention_block_types=[Temporal_Self, Temporal_Self, Temporal_Self]"],
        ),
        (
            {"num_blocks": 2},
            {},
            "blocks per module",
            ["num_transformer_block=2", "motion_transformer_layers_per_block=2"],
        ),
        (
            {"num_positions": 16},
            {},
            "position rows",
            ["16, where AnimateDiff v3 has 32", "motion_max_seq_length=16", "A1111 expects 32"],
        ),
        (
            {},
            {"betas": "scaled_linear"},
            "noise schedule",
            [
                "scaled_linear 0.00085-0.012 in 1000 steps, where AnimateDiff v3 has linear 0.00085-0.012",
                "beta_schedule=scaled_linear",
                "beta_schedule='linear (HotshotXL/default)' in ComfyUI",
            ],
        ),
        ({}, {"beta_end": 0.03}, "noise schedule", ["beta_end=0.03", "ComfyUI has no such beta_schedule"]),
    ],
)
def test_what_readers_cannot_know_is_said_with_where_to_set_it(motion, betas, what, words):
    layout = Layout(version=Version.V3, channels=(), mid_block=False, num_positions=32)
    schedule = {**animatediff.implied(layout)["schedule"], **betas}
    [(row, text)] = unsaid(layout, {**MOTION, "num_positions": 32, **motion}, schedule).items()
    assert row == what
    assert [word for word in words if word not in text] == []
