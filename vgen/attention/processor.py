"""The one attention processor of the house: fused attention in which text is projected once per clip, not once per frame."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor

from vgen.backbones.video_unet import FrameCount, VideoUNet


class VideoAttention:
    """Self- and cross-attention of an image UNet that is fed clips, ``(b f) n c``.

    Self-attention stays within a frame. Cross-attention takes its keys and values from ``b`` rows of text: instead of copying them
    for every frame, the frames' queries are folded into one long query per clip, which is a view.
    """

    def __init__(self, frames: FrameCount) -> None:
        self.frames = frames

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, attention_mask: Tensor | None = None, temb: Tensor | None = None) -> Tensor:
        residual, shape = hidden_states, hidden_states.shape
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and len(source) != shape[0]:
            hidden_states = hidden_states.reshape(len(source), self.frames() * shape[1], shape[2])
        q, k, v = (_heads(project(x), attn.heads) for project, x in ((attn.to_q, hidden_states), (attn.to_k, source), (attn.to_v, source)))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask, scale=attn.scale)
        out = attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2).reshape(*shape[:2], -1)))
        return (out + residual if attn.residual_connection else out) / attn.rescale_output_factor


def _heads(x: Tensor, num_heads: int) -> Tensor:
    """``b n (m d) -> b m n d``."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def route(video_unet: VideoUNet) -> None:
    """Install :class:`VideoAttention` on every attention of the image UNet; ``VideoUNet.eject`` takes it off again."""
    with torch.no_grad():
        video_unet.image_unet.set_attn_processor(VideoAttention(video_unet.frames))
