"""An export proves itself: what was written is read back and compared bit for bit, and diffusers computes the
same on it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import Tensor

from vgen.backbones.conditioning import Conditioning
from vgen.backbones.image_model import Context
from vgen.backbones.video_unet import VideoUNet
from vgen.formats import diffusers_motion
from vgen.formats.foreign import Learnt

TOLERANCE = 1e-4
FRAMES = 4
"""The length of a clip for a proof, where the method has no lower limit."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """``x`` b f c h w, ``t`` b, and text of random numbers."""

    x: Tensor
    t: Tensor
    context: Context


def same(written: Mapping[str, Tensor], read: Mapping[str, Tensor], where: str) -> int:
    """Number of tensors that were compared, all equal to the bit. Raises ValueError naming those that are
    not."""
    differ = [
        n
        for n, v in written.items()
        if n not in read or v.dtype != read[n].dtype or not torch.equal(v, read[n])
    ]
    differ += [n for n in read if n not in written]
    if differ:
        raise ValueError(
            f"{where} does not read back as it was written: {len(differ)} of {len(written)} tensors differ "
            f"(first: {', '.join(differ[:3])}); nothing was kept, check the disk"
        )
    return len(written)


def inputs(unet: UNet2DConditionModel, num_frames: int, seed: int = 0) -> Inputs:
    """Two small clips at different timesteps."""
    draw = torch.Generator().manual_seed(seed)
    options = unet.config
    side = 2 ** len(options["block_out_channels"])
    x = torch.randn(2, num_frames, options["in_channels"], side, side, generator=draw)
    pooled = None
    if options["addition_embed_type"] == "text_time":
        num_pooled = options["projection_class_embeddings_input_dim"] - 6 * options["addition_time_embed_dim"]
        pooled = torch.randn(2, num_pooled, generator=draw)
    width = options["cross_attention_dim"]
    tokens = torch.randn(2, 7, width if isinstance(width, int) else width[0], generator=draw)
    return Inputs(x, torch.tensor([901, 301]), Context(tokens, pooled))


@torch.no_grad()
def ours(video: VideoUNet, given: Inputs) -> Tensor:
    """b f c h w."""
    return video(given.x, given.t, Conditioning(given.context))


def forward(
    learnt: Learnt, knobs: Mapping[str, Any], tensors: Mapping[str, Tensor], num_frames: int
) -> Tensor:
    """One pass of the method with these knobs and tensors, b f c h w; the image UNet is left as it was."""
    with learnt.assembled(knobs, tensors) as video:
        return ours(video, inputs(learnt.unet, num_frames))


@torch.no_grad()
def theirs(unet: UNet2DConditionModel, adapter: MotionAdapter, given: Inputs) -> Tensor:
    """``UNetMotionModel`` on the image UNet's own storage: as ``from_unet2d``, without its copy of every
    weight. b f c h w."""
    with torch.device("meta"):
        model = UNetMotionModel.from_unet2d(unet, adapter, load_weights=False)
    model.load_state_dict(
        {**unet.state_dict(), **{n: v.to(unet.dtype) for n, v in adapter.state_dict().items()}},
        strict=True,
        assign=True,
    )
    added = None
    if given.context.pooled is not None:
        h, w = given.x.shape[-2:]
        added = {
            "text_embeds": given.context.pooled,
            "time_ids": torch.tensor([[8 * h, 8 * w, 0, 0, 8 * h, 8 * w]] * 2, dtype=given.x.dtype),
        }
    text = given.context.tokens.repeat_interleave(given.x.shape[1], 0)
    return model.eval()(given.x.transpose(1, 2), given.t, text, added_cond_kwargs=added, return_dict=False)[
        0
    ].transpose(1, 2)


def open_file(path: Path, arguments: Mapping[str, Any]) -> MotionAdapter:
    """An AnimateDiff file as diffusers reads it, offline: its converter is an independent reading of the
    original layout."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps({"_class_name": "MotionAdapter", **arguments}))
        return MotionAdapter.from_single_file(
            str(path), config=folder, local_files_only=True, low_cpu_mem_usage=False
        )


def open_folder(folder: Path) -> MotionAdapter:
    return MotionAdapter.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
    )


def read_by_peer(
    adapter: MotionAdapter,
    tensors: Mapping[str, Tensor],
    unet: UNet2DConditionModel,
    arguments: Mapping[str, Any],
    where: str,
) -> int:
    """diffusers leaves what it does not find at random numbers, in silence: every tensor it holds must be
    ours."""
    state = {name: value.float() for name, value in adapter.state_dict().items()}
    return same(
        {name: value.float() for name, value in diffusers_motion.export(tensors, unet, arguments).items()},
        state,
        f"{where}, read by diffusers,",
    )


def agree(ours: Tensor, theirs: Tensor, where: str) -> float:
    """Largest absolute difference. Raises ValueError where it is beyond what rounding explains."""
    difference = float((ours - theirs).abs().max())
    if not difference <= TOLERANCE:  # NaN too
        raise ValueError(
            f"{where}: vgen and diffusers differ by {difference:.1e} on the same weights and inputs, "
            f"the limit is {TOLERANCE:.0e}; nothing was kept, diffusers may not support this image model"
        )
    return difference
