"""Temporal attention beside a block's self-attention, from the same input and with a copy of its weights
(Zhao et al. 2023, ControlVideo, section 3.2)."""

from __future__ import annotations

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from vgen.backbones.conditioning import ForwardContext
from vgen.backbones.sites import Kind, Site
from vgen.layers.insertion import Inserted, LayerSpec
from vgen.layers.temporal_attention import FrameAttention
from vgen.spec import spec


class ParallelAttention(Inserted):
    """Adds attention over frames at every position to what ``attn1`` says, through a convolution of one pixel
    that is born zero. Runs on the tokens of a transformer block, ``(b f) n c``."""

    READS_INPUT = True

    def __init__(self, attention: Attention, context: ForwardContext) -> None:
        super().__init__(context)
        channels = attention.to_q.in_features
        self.attn_temp = FrameAttention(channels, attention.heads)
        self.conv_temp = nn.Conv2d(channels, channels, 1)
        self._copy(attention)
        for p in self.silent_outputs():
            nn.init.zeros_(p)

    @torch.no_grad()
    def _copy(self, attention: Attention) -> None:
        own = self.attn_temp
        outs = attention.to_out
        pairs = (
            (own.to_q, attention.to_q),
            (own.to_k, attention.to_k),
            (own.to_v, attention.to_v),
            (own.to_out[0], outs[0]),
        )
        for mine, theirs in pairs:
            mine.load_state_dict(theirs.state_dict())

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        (hidden,) = given
        clip = hidden.unflatten(0, (-1, self.context.frames())).transpose(1, 2)  # b n f c
        found = self.attn_temp(clip).transpose(1, 2).flatten(0, 1)
        return x + self.conv_temp(found.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)

    def silent_outputs(self) -> list[nn.Parameter]:
        return list(self.conv_temp.parameters())


@spec
class ParallelAttentionSpec(LayerSpec):
    """Everything is the self-attention's own: width, heads and weights at birth."""

    def build(self, site: Site, module: nn.Module, context: ForwardContext) -> ParallelAttention:
        """Raises ValueError at a site that is no self-attention, or one whose projections have a bias."""
        if site.kind is not Kind.ATTN1 or not isinstance(module, Attention):
            raise ValueError(
                f"parallel attention copies a self-attention, got {site.kind.value} at {site.path}; insert "
                "it at sites of kind attn1"
            )
        if module.to_q.bias is not None:
            raise ValueError(
                f"parallel attention copies projections without a bias, got one with a bias at {site.path}; "
                "use an image model of Stable Diffusion's kind"
            )
        return ParallelAttention(module, context)
