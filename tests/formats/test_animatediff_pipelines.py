"""Whole drawings by diffusers' AnimateDiff pipelines beside vgen's, on the same random weights and noise."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AnimateDiffControlNetPipeline,
    AnimateDiffSparseControlNetPipeline,
    ControlNetModel,
    DDIMScheduler,
    MotionAdapter,
    SparseControlNetModel,
)
from PIL import Image
from torch import Tensor

from vgen.app.export import Export, export
from vgen.app.loading import NONE, load_backbone, open_checkpoint
from vgen.app.stacks import StackEntry
from vgen.backbones.image_model import ImageModel
from vgen.conditions.condition import revealed
from vgen.diffusion.draws import Draws
from vgen.diffusion.solvers import Spacing
from vgen.formats import diffusers_motion
from vgen.formats.adapter import Card, plain, save_adapter
from vgen.formats.sparse_ctrl import arguments_for
from vgen.layers.norm import NormScope
from vgen.methods import VideoModel, assemble
from vgen.methods._sampling import Loudness, Prompt, Sampling, draw_latents
from vgen.methods.animatediff import AnimateDiff
from vgen.methods.control_net import ControlNets, Shown

BLANK, FRAMES, SIDE, SEED = "blank:sd15_narrow:0", 3, 64, 7
WORDS, NOT = "a red circle moves up", "blue"
FEW = {"num_frames": FRAMES, "num_steps": 3, "guidance": 2.0, "width_px": SIDE, "height_px": SIDE}
SCALE = 0.8


@pytest.fixture(scope="module")
def model() -> ImageModel:
    return load_backbone(BLANK)


@pytest.fixture(scope="module")
def motion(bench, model: ImageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A motion module as vgen's adapter and as diffusers' folder, its norms as diffusers pools them."""
    folder, recipe = tmp_path_factory.mktemp("motion"), AnimateDiff()
    recipe.motion.norm_scope = NormScope.CLIP
    tensors = bench.modules(model.unet, False)
    save_adapter(folder / "adapter.safetensors", tensors, Card.of("animatediff", recipe, model, {}, {}))
    knobs = plain(asdict(recipe))["motion"]
    arguments = diffusers_motion.config(model.unet, knobs, False)
    diffusers_motion.write(folder / "theirs", tensors, model.unet, arguments)
    return folder


def pictures() -> np.ndarray:
    """White lines that move, uint8 f h w."""
    out = np.zeros((FRAMES, SIDE, SIDE), np.uint8)
    for k in range(FRAMES):
        out[k, 10 + 4 * k : 40, 12 + k] = out[k, 12 + k, 20:50] = 255
    return out


def parts(model: ImageModel, motion: Path) -> dict[str, Any]:
    """What every pipeline is made of; they write into their nets."""
    own = copy.deepcopy(model)
    return {
        "vae": own.vae,
        "text_encoder": own.text_encoders[0],
        "tokenizer": own.tokenizer,
        "unet": own.unet,
        "motion_adapter": MotionAdapter.from_pretrained(motion / "theirs", low_cpu_mem_usage=False),
        "scheduler": DDIMScheduler(
            beta_schedule="linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            steps_offset=1,
        ),
    }


def drawn_by(pipe: Any, noise: Tensor, **given: Any) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    call = {"prompt": WORDS, "negative_prompt": NOT, "output_type": "latent", "latents": noise}
    call |= {"num_frames": FRAMES, "num_inference_steps": 3, "guidance_scale": 2.0}
    call |= {"width": SIDE, "height": SIDE, "controlnet_conditioning_scale": SCALE}
    return pipe(**call, **given).frames


def opened(motion: Path, **nets: Path) -> VideoModel:
    stack = [StackEntry(name="motion", file=str(motion))]
    stack += [StackEntry(name=name, file=str(path)) for name, path in nets.items()]
    return open_checkpoint(NONE, BLANK, "cpu", stack=stack).video_model


def drawn(video_model: VideoModel, name: str, fields: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Latents b f c h w, and the noise that they began as."""
    sampling = Sampling(**FEW, spacing=Spacing.LEADING, conditions=[Loudness(name=name, scale=SCALE)])
    like = torch.empty(1, FRAMES, 4, SIDE // 8, SIDE // 8)
    noise = video_model.start.noise(Draws(0, [("clip", SEED)]), like, fields={})
    return draw_latents(video_model, [Prompt(WORDS, SEED, NOT)], sampling, more=fields), noise


def agree(ours: Tensor, theirs: Tensor, other: Tensor) -> None:
    """To 1e-4; ``other``, drawn without the net, is far."""
    assert float((ours.transpose(1, 2) - theirs).abs().max()) <= 1e-4
    assert float((ours - other).abs().max()) > 1e-2


def silenced(video_model: VideoModel, name: str, fields: dict[str, Tensor]) -> Tensor:
    sampling = Sampling(**FEW, spacing=Spacing.LEADING, conditions=[Loudness(name=name, scale=0.0)])
    return draw_latents(video_model, [Prompt(WORDS, SEED, NOT)], sampling, more=fields)


@torch.no_grad()
def test_the_control_net_pipeline_draws_the_same(model: ImageModel, motion: Path, tmp_path: Path) -> None:
    recipe, draw = ControlNets(condition=Shown.EDGES), torch.Generator().manual_seed(0)
    video_model = assemble(recipe, model)
    named = {f"edges.{n}": p.detach() for n, p in video_model.modules["edges"].named_parameters()}
    moved = {n: p + 0.05 * torch.randn(p.shape, generator=draw) for n, p in named.items()}
    video_model.eject()
    path = tmp_path / "net" / "adapter.safetensors"
    save_adapter(path, moved, Card.of("control_net", recipe, model, {}, {}))
    export(Export(run=str(tmp_path / "net"), to="controlnet", out=str(tmp_path / "theirs")))
    ours = opened(motion, edges=tmp_path / "net")
    fields = {"edges": torch.from_numpy(pictures())[None]}
    latents, noise = drawn(ours, "edges", fields)
    pipe = AnimateDiffControlNetPipeline(
        **parts(model, motion),
        controlnet=ControlNetModel.from_pretrained(tmp_path / "theirs", low_cpu_mem_usage=False),
    )
    shown = [Image.fromarray(one).convert("RGB") for one in pictures()]
    theirs = drawn_by(pipe, noise.transpose(1, 2), conditioning_frames=shown)
    agree(latents, theirs, silenced(ours, "edges", fields))


@torch.no_grad()
def test_the_sparse_pipeline_draws_the_same(model: ImageModel, motion: Path, tmp_path: Path) -> None:
    """Scribbles of the first and the last frame."""
    knobs = {"condition": "scribble", "motion": {"num_positions": 32, "heads": 8}}
    torch.manual_seed(0)
    stock = SparseControlNetModel(**arguments_for(model.unet, knobs, 3)).eval()
    for p in stock.parameters():
        p.add_(0.05 * torch.randn_like(p))
    stock.save_pretrained(tmp_path / "theirs")
    export(Export(source=str(tmp_path / "theirs"), to="vgen", out=str(tmp_path / "net"), backbone=BLANK))
    ours, places = opened(motion, sparse=tmp_path / "net"), [0, FRAMES - 1]
    counts = torch.tensor([[i in places for i in range(FRAMES)]])
    fields = {"scribble": torch.from_numpy(pictures())[None], revealed("scribble"): counts}
    latents, noise = drawn(ours, "scribble", fields)
    pipe = AnimateDiffSparseControlNetPipeline(**parts(model, motion), controlnet=stock)
    shown = [Image.fromarray(pictures()[i]).convert("RGB") for i in places]
    theirs = drawn_by(pipe, noise.transpose(1, 2), conditioning_frames=shown, controlnet_frame_indices=places)
    agree(latents, theirs, silenced(ours, "scribble", fields))
