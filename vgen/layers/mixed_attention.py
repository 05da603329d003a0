"""Attention over frames, and to the text, behind a transformer block, mixed with it (Blattmann et al. 2023,
Align your Latents, section 3.1; ``TemporalBasicTransformerBlock`` of Stable Video Diffusion)."""

from __future__ import annotations

import torch
from diffusers.models.attention import BasicTransformerBlock, TemporalBasicTransformerBlock
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from vgen.backbones.conditioning import ForwardContext
from vgen.backbones.sites import Kind, Site
from vgen.layers.insertion import Inserted, LayerSpec
from vgen.layers.mixing import MixedLayer, Mixing
from vgen.spec import spec

WIDENING = 4


class MixedAttention(MixedLayer):
    """Runs on a transformer block's tokens, ``(b f) n c``.

    A frame's number is told by a sinusoid through a small net, so that no table limits the length of a clip.
    """

    def __init__(
        self, channels: int, heads: int, text_width: int | None, mixing: Mixing, context: ForwardContext
    ) -> None:
        super().__init__(mixing, context)
        self.time_proj = Timesteps(channels, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_pos_embed = TimestepEmbedding(channels, WIDENING * channels, out_dim=channels)
        self.temporal_transformer_block = TemporalBasicTransformerBlock(
            channels, channels, heads, channels // heads, cross_attention_dim=text_width
        )

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        frames = self.context.frames()
        numbers = torch.arange(frames, device=x.device)
        position = self.time_pos_embed(self.time_proj(numbers).to(x.dtype))  # f c
        told = x.unflatten(0, (-1, frames)) + position[:, None]  # b f n c
        over_frames = self._over_frames(told.transpose(1, 2)).transpose(1, 2)
        return self.mixed(x, over_frames.flatten(0, 1))

    def _over_frames(self, clip: Tensor) -> Tensor:
        """``b n f c`` to the same. All positions of a clip ask its text together, so that its keys are made
        once and not for every position."""
        block, shape = self.temporal_transformer_block, clip.shape
        x = clip.flatten(0, 1)  # (b n) f c
        x = x + block.ff_in(block.norm_in(x))
        x = x + block.attn1(block.norm1(x))
        if block.attn2 is not None:
            text = self.context.conditioning.text().tokens.to(x.dtype)  # b t d
            asking = block.norm2(x).view(shape).flatten(1, 2)  # b (n f) c
            x = x + block.attn2(asking, encoder_hidden_states=text).reshape(x.shape)
        x = x + block.ff(block.norm3(x))
        return x.view(shape)


@spec
class MixedAttentionSpec(LayerSpec):
    """``heads`` 0: as many as the image UNet's own attention has at that site."""

    heads: int = 0
    mixing: Mixing = Mixing.SHARE

    def __post_init__(self) -> None:
        if self.heads < 0:
            raise ValueError(
                f"mixed attention heads must be at least 1, or 0 for the image UNet's own, got {self.heads}"
            )

    def build(self, site: Site, module: nn.Module, context: ForwardContext) -> Inserted:
        """Raises ValueError at a site that is no transformer block, and for heads that do not divide its
        channels."""
        if site.kind is not Kind.BLOCK or not isinstance(module, BasicTransformerBlock):
            raise ValueError(
                f"mixed attention stands behind a transformer block, got {site.kind.value} at {site.path}; "
                "insert it at sites of kind block"
            )
        heads = self.heads or site.heads
        if site.channels % heads:
            raise ValueError(
                f"mixed attention heads must divide the {site.channels} channels of {site.path}, got "
                f"{heads}; "
                "set method.attention.heads to a divisor"
            )
        cross = module.attn2
        text_width = None if cross is None else cross.to_k.in_features
        return MixedAttention(site.channels, heads, text_width, self.mixing, context)
