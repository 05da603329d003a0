"""diffusers' motion adapters: names and shapes are theirs, the pipeline loads what we write, and it computes
what we compute."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from diffusers import AnimateDiffPipeline, DDIMScheduler, MotionAdapter, UNetMotionModel

from vgen.backbones.blank import Blank
from vgen.backbones.image_model_folder import save
from vgen.formats import animatediff, diffusers_motion, proof, state_file
from vgen.layers.norm import NormScope
from vgen.methods import assemble
from vgen.methods.animatediff import AnimateDiff


def arguments_of(unet, mid_block: bool, **knobs) -> dict:
    return diffusers_motion.config(unet, asdict(AnimateDiff().motion) | knobs, mid_block)


def compute(model, recipe: AnimateDiff, sidecar: dict, given: proof.Inputs) -> torch.Tensor:
    video = assemble(recipe, model).unet
    with torch.no_grad():
        for name, value in video.named_parameters():
            if name.startswith("inserted."):
                value.copy_(sidecar[f"unet.{name}"])
    out = proof.ours(video, given)
    video.eject()
    return out


@pytest.mark.parametrize("mid_block", [False, True])
def test_import_inverts_export(bench, image_model, mid_block):
    unet = image_model.unet
    sidecar, arguments = bench.modules(unet, mid_block), arguments_of(unet, mid_block, num_positions=24)
    found = diffusers_motion.import_(diffusers_motion.export(sidecar, unet, arguments), arguments, unet)
    assert found.tensors.keys() == sidecar.keys()
    assert all(torch.equal(found.tensors[n], v) for n, v in sidecar.items())
    assert found.knobs["mid_block"] is mid_block
    assert found.knobs["motion"]["num_positions"] == 24


@pytest.mark.parametrize(("mid_block", "learnt"), [(False, 520), (True, 546)])
def test_names_and_shapes_are_those_of_diffusers_at_full_width(bench, mid_block, learnt):
    unet = bench.wide(4)
    arguments = arguments_of(unet, mid_block)
    state = diffusers_motion.export(bench.modules(unet, mid_block), unet, arguments)
    with torch.device("meta"):
        adapter = MotionAdapter(**arguments)
    assert {n: v.shape for n, v in state.items()} == {n: v.shape for n, v in adapter.state_dict().items()}
    assert len(list(adapter.parameters())) == learnt
    assert sum(p.numel() for p in adapter.parameters()) == pytest.approx(
        417.1e6 if learnt == 520 else 453.2e6, abs=5e4
    )


@pytest.mark.parametrize(
    ("size", "mid_block"),
    [(Blank.TOYBOX, False), (Blank.TOYBOX, True), (Blank.SD15_NARROW, False), (Blank.SDXL_NARROW, True)],
)
def test_forward_agrees_with_diffusers(bench, tmp_path, size, mid_block):
    """Where the norm scopes are diffusers' own; by ``from_unet2d`` as users run it, and by the proof, which
    copies nothing."""
    model = bench.model(size)
    sidecar, recipe = bench.modules(model.unet, mid_block), AnimateDiff(mid_block=mid_block)
    recipe.motion.norm_scope = NormScope.CLIP
    arguments, given = arguments_of(model.unet, mid_block), proof.inputs(model.unet, 3)
    diffusers_motion.write(tmp_path / "adapter", sidecar, model.unet, arguments)
    adapter = proof.open_folder(tmp_path / "adapter")
    assert proof.read_by_peer(adapter, sidecar, model.unet, arguments, "it") == len(adapter.state_dict())
    out = compute(model, recipe, sidecar, given)
    theirs = proof.theirs(model.unet, adapter, given)
    assert proof.agree(out, theirs, "it") <= 1e-4
    assert out.std() > 0.1
    if size is Blank.TOYBOX:
        whole = UNetMotionModel.from_unet2d(model.unet, adapter).eval()
        with torch.no_grad():
            text = given.context.tokens.repeat_interleave(3, 0)
            assert torch.equal(whole(given.x.transpose(1, 2), given.t, text).sample.transpose(1, 2), theirs)
        apart = compute(
            model, replace(recipe, motion=replace(recipe.motion, norm_scope=NormScope.FRAME)), sidecar, given
        )
        assert (apart - theirs).abs().max() > 1e-3  # the published scope: diffusers cannot compute it
        with pytest.raises(ValueError, match=r"vgen and diffusers differ by"):
            proof.agree(apart, theirs, "it")


@pytest.mark.parametrize("container", state_file.Container)
def test_diffusers_reads_the_original_layout_as_we_wrote_it(bench, tmp_path, container):
    """Its converter is an independent reading of AnimateDiff's names."""
    unet = bench.model(Blank.TOYBOX).unet
    sidecar, path = bench.modules(unet, True), tmp_path / f"mm.{container.value}"
    state_file.write(path, animatediff.export(sidecar, unet, 32), container)
    arguments = arguments_of(unet, True)
    assert (
        proof.read_by_peer(proof.open_file(path, arguments), sidecar, unet, arguments, "it") == 10 * 27
    )  # ten modules, each with its table


def test_the_pipeline_loads_the_folder_and_draws(bench, tmp_path):
    model = bench.model(Blank.SD15_NARROW)
    diffusers_motion.write(
        tmp_path / "adapter", bench.modules(model.unet, False), model.unet, arguments_of(model.unet, False)
    )
    save(model, tmp_path / "image", torch.float32)
    adapter = MotionAdapter.from_pretrained(tmp_path / "adapter", low_cpu_mem_usage=False)
    pipe = AnimateDiffPipeline.from_pretrained(
        tmp_path / "image", motion_adapter=adapter, local_files_only=True, low_cpu_mem_usage=False
    )
    pipe.scheduler = DDIMScheduler(
        beta_schedule="linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1
    )
    pipe.set_progress_bar_config(disable=True)
    frames = pipe(
        "a red circle",
        num_frames=2,
        num_inference_steps=2,
        width=128,
        height=128,
        output_type="latent",
        generator=torch.Generator().manual_seed(0),
    ).frames
    assert frames.shape == (1, 4, 2, 16, 16)
    assert torch.isfinite(frames).all()


def test_what_diffusers_cannot_hold_is_refused(bench):
    unet = bench.model(Blank.TOYBOX).unet
    with pytest.raises(ValueError, match=r"has 2 temporal attentions per block, the adapter has 3"):
        arguments_of(unet, False, num_attentions=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"block_out_channels": [320, 640]},
            r"is for \(320, 640\) channels, the image model has \(48, 96, 128\)",
        ),
        ({"motion_num_attention_heads": [8, 4, 8]}, "different numbers of heads per level"),
        ({"motion_transformer_layers_per_block": [1, 2, 1]}, "transformer layers .* per level"),
        ({"use_motion_mid_block": True}, "26 missing"),
    ],
)
def test_foreign_adapters_that_do_not_fit_are_named(bench, change, message):
    unet = bench.model(Blank.TOYBOX).unet
    arguments = arguments_of(unet, False)
    state = diffusers_motion.export(bench.modules(unet, False), unet, arguments)
    with pytest.raises(ValueError, match=message):
        diffusers_motion.import_(state, arguments | change, unet)


def test_a_folder_that_is_no_adapter_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"is no diffusers MotionAdapter: config.json names nothing"):
        diffusers_motion.read(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "MotionAdapter"}))
    with pytest.raises(ValueError, match=r"holds no weights: none of diffusion_pytorch_model.safetensors"):
        diffusers_motion.read(tmp_path)


def test_a_tensor_that_did_not_arrive_is_named():
    with pytest.raises(ValueError, match=r"2 of 2 tensors differ .*first: a, b"):
        proof.same(
            {"a": torch.zeros(2), "b": torch.zeros(2)}, {"a": torch.ones(2), "b": torch.zeros(2).half()}, "it"
        )
