"""The original layout: export and import invert each other, and every published variant is recognised or
refused by name."""

from __future__ import annotations

import pytest
import torch

from vgen.backbones.blank import Blank
from vgen.formats import animatediff
from vgen.formats.animatediff import Version
from vgen.formats.motion_names import positions
from vgen.layers.motion_module import sinusoid
from vgen.methods import assemble
from vgen.methods.animatediff import AnimateDiff


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("mid_block", [False, True])
@pytest.mark.parametrize("rows", [24, 32])
def test_import_inverts_export(bench, image_model, mid_block, rows):
    unet = image_model.unet
    sidecar = bench.modules(unet, mid_block)
    state = animatediff.export(sidecar, unet, rows)
    found = animatediff.import_(state, unet)
    assert equal(found.tensors, sidecar)
    assert (found.knobs["mid_block"], found.knobs["motion"]["num_positions"]) == (mid_block, rows)
    assert equal(animatediff.export(found.tensors, unet, rows), state)


@pytest.mark.parametrize("mid_block", [False, True])
def test_the_sidecar_is_what_the_method_learns(bench, mid_block):
    model = bench.model(Blank.TOYBOX)
    video = assemble(AnimateDiff(mid_block=mid_block), model).unet
    learnt = {f"unet.{n}": p for n, p in video.named_parameters() if n.startswith("inserted.")}
    sidecar = bench.modules(model.unet, mid_block)
    assert {n: p.shape for n, p in learnt.items()} == {n: p.shape for n, p in sidecar.items()}
    buffers = {f"unet.{n}" for n, _ in video.named_buffers() if n.startswith("inserted.")}
    video.eject()
    assert len(buffers) == 2 * len(
        {n.split(".temporal")[0] for n in learnt}
    )  # position tables: in no adapter, in every export


def test_two_blocks_and_half_precision(bench):
    unet = bench.model(Blank.TOYBOX).unet
    sidecar = {name: value.half() for name, value in bench.modules(unet, True, num_blocks=2).items()}
    state = animatediff.export(sidecar, unet, 32)
    assert {value.dtype for value in state.values()} == {torch.float16}
    found = animatediff.import_(state, unet)
    assert equal(found.tensors, sidecar)
    assert found.knobs["motion"]["num_blocks"] == 2
    assert equal(animatediff.export(found.tensors, unet, 32), state)


def test_the_position_table_is_the_motion_modules_own():
    assert torch.equal(positions(32, torch.zeros(320)), sinusoid(32, 320))


@pytest.mark.parametrize(
    ("mid_block", "rows", "version", "scope"),
    [(False, 24, Version.V1, "clip"), (True, 32, Version.V2, "frame"), (False, 32, Version.V3, "frame")],
)
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapper", ["plain", "state_dict", "training"])
def test_published_layouts_of_sd15(bench, mid_block, rows, version, scope, prefix, wrapper):
    unet = bench.model(Blank.SD15_NARROW).unet
    sidecar = bench.modules(unet, mid_block)
    state = {f"{prefix}{name}": value for name, value in animatediff.export(sidecar, unet, rows).items()}
    entries = {
        "plain": state,
        "state_dict": {"state_dict": state},
        "training": {"epoch": 3, "global_step": 500, "state_dict": state, "animatediff_config": {"a": 1}},
    }[wrapper]
    layout, _ = animatediff.detect(entries, unet)
    assert (layout.version, layout.num_positions, layout.mid_block) == (version, rows, mid_block)
    assert (layout.prefix, bool(layout.wrapper)) == (prefix, wrapper != "plain")
    found = animatediff.import_(entries, unet)
    assert equal(found.tensors, sidecar)
    assert found.knobs["image_norm_scope"] == scope
    assert found.knobs["schedule"]["beta_end"] == 0.012
    beside = ["left unread what stands beside state_dict: epoch, global_step, animatediff_config"]
    assert found.notes == (beside if wrapper == "training" else [])
    assert (
        f"AnimateDiff {version.value}: 4 levels of 32/64/64/64 channels, {'a' if mid_block else 'no'} "
        f"middle block, {rows} position rows" in found.origin
    )


def test_published_layout_of_sdxl(bench):
    unet = bench.model(Blank.SDXL_NARROW).unet
    state = animatediff.export(bench.modules(unet, False), unet, 32) | {"animatediff_config": {"a": 1}}
    assert animatediff.detect(state, unet)[0].version is Version.SDXL
    found = animatediff.import_(state, unet)
    assert found.knobs["schedule"] == {
        "betas": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.02,
        "num_timesteps": 1000,
    }
    assert "with an animatediff_config entry" in found.origin


def test_three_levels_alone_are_not_sdxl(bench):
    unet = bench.model(Blank.TOYBOX).unet
    found = animatediff.import_(animatediff.export(bench.modules(unet, False), unet, 32), unet)
    assert found.origin.startswith("AnimateDiff v3: 3 levels of 48/96/128")


def test_the_file_and_not_the_image_model_says_what_it_is(bench):
    """A file of the other family is called by its own name where it is refused."""
    of_sdxl = animatediff.export(bench.modules(bench.wide(3), False), bench.wide(3), 32)
    for size in (Blank.TOYBOX, Blank.SD15_NARROW):
        with pytest.raises(ValueError, match=r"the file is AnimateDiff SDXL: 3 levels of 320/640/1280"):
            animatediff.import_(of_sdxl, bench.model(size).unet)
    of_sd = animatediff.export(bench.modules(bench.wide(4), False), bench.wide(4), 32)
    with pytest.raises(ValueError, match=r"the file is AnimateDiff v3: 4 levels of 320/640/1280/1280"):
        animatediff.import_(of_sd, bench.model(Blank.SDXL_NARROW).unet)


def test_without_tables_rows_are_assumed_and_said(bench):
    unet = bench.model(Blank.TOYBOX).unet
    sidecar = bench.modules(unet, False)
    state = {
        name: value
        for name, value in animatediff.export(sidecar, unet, 32).items()
        if not name.endswith(".pe")
    }
    found = animatediff.import_(state, unet)
    assert equal(found.tensors, sidecar)
    assert found.knobs["motion"]["num_positions"] == 24
    assert "carries no position table: 24 rows are assumed" in found.notes[0]
    assert animatediff.import_(state, unet, rows_if_absent=16).knobs["motion"]["num_positions"] == 16


def test_a_whole_unet_gives_its_motion_modules(bench):
    """As the original trainer saves it: the frozen image UNet along, every key behind ``module.``, no
    table."""
    unet = bench.model(Blank.TOYBOX).unet
    sidecar = bench.modules(unet, False)
    state = {n: v for n, v in animatediff.export(sidecar, unet, 32).items() if not n.endswith(".pe")} | dict(
        unet.state_dict()
    )
    state["conv_in.bias"] = state["conv_in.bias"] + 1
    found = animatediff.import_({"state_dict": {f"module.{n}": v for n, v in state.items()}}, unet)
    assert equal(found.tensors, sidecar)
    assert (
        found.notes[0]
        == f"left out {len(unet.state_dict())} tensors of the image UNet that the file carries, 1 of which "
        "differ from the image model's"
    )


def spoilt(state: dict, how: str) -> dict:
    name = "up_blocks.1.motion_modules.0.temporal_transformer.proj_in.weight"
    table = "up_blocks.1.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.pos_encoder.pe"  # noqa: E501
    match how:
        case "unknown":
            return state | {
                "down_blocks.0.motion_modules.0.temporal_transformer.extra.weight": torch.zeros(2),
                "conv_norm_in.bias": torch.zeros(2),
            }
        case "missing":
            return {n: v for n, v in state.items() if n != name}
        case "shape":
            return state | {name: torch.zeros(3, 3)}
        case "stretched":
            return state | {table: state[table].repeat(1, 2, 1)[:, :32] * 0.5}
        case "lengths":
            return state | {table: state[table][:, :24]}
        case "empty":
            return {}
        case "text":
            return state | {"author": "somebody"}
        case "sparse":
            return {"controlnet": state}
        case _:
            return {"unet.down_blocks.0.attn.processor.to_q_lora.down.weight": torch.zeros(2)}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            "unknown",
            r"2 unknown: down_blocks.0.motion_modules.0.temporal_transformer.extra.weight, conv_norm_in.bias",
        ),
        ("missing", r"1 missing: up_blocks.1.motion_modules.0.temporal_transformer.proj_in.weight"),
        (
            "shape",
            r"1 of another shape: up_blocks.1.motion_modules.0.temporal_transformer.proj_in.weight is \(3, "
            r"3\) for \(96, 96\)",
        ),
        ("stretched", "is not the sinusoid that vgen computes"),
        ("lengths", r"tables differ in length \(24, 32 rows\)"),
        ("empty", "holds no motion module .* its entries are none"),
        ("text", "entries that are no tensors: author"),
        ("sparse", "SparseCtrl condition encoder"),
        ("lora", "holds no motion module .*to_q_lora"),
    ],
)
def test_what_does_not_fit_is_named(bench, how, message):
    unet = bench.model(Blank.TOYBOX).unet
    state = animatediff.export(bench.modules(unet, False), unet, 32)
    with pytest.raises(ValueError, match=message):
        animatediff.import_(spoilt(state, how), unet)


def test_a_file_of_another_image_model_is_named(bench):
    state = animatediff.export(bench.modules(bench.wide(4), True), bench.wide(4), 32)
    with pytest.raises(
        ValueError,
        match=r"the file is AnimateDiff v2: 4 levels of 320/640/1280/1280 .* the image model has 48/96/128 "
        r"channels",
    ):
        animatediff.import_(state, bench.model(Blank.TOYBOX).unet)


def test_export_refuses_other_tensors(bench):
    unet = bench.model(Blank.TOYBOX).unet
    sidecar = bench.modules(unet, False)
    sidecar["unet.image_unet.conv_in.bias"] = torch.zeros(48)
    del sidecar[next(iter(sidecar))]
    with pytest.raises(
        ValueError,
        match=r"the adapter does not hold exactly .* 1 unknown: unet.image_unet.conv_in.bias; 1 missing: "
        r"unet.inserted",
    ):
        animatediff.export(sidecar, unet, 32)
