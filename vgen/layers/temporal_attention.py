"""Tune-A-Video's temporal attention: over frames at every position, after a block's feed-forward (Wu et al.
2022, section 4.1)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from vgen.backbones.attend import attend
from vgen.backbones.conditioning import ForwardContext
from vgen.backbones.frame_attention import FrameAttending
from vgen.backbones.sites import Site
from vgen.layers.insertion import Inserted, LayerSpec
from vgen.spec import spec


class FrameAttention(FrameAttending):
    """Self-attention over frames, ``... f c``, without positions."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        return self.attended(x, self.to_q(x), self.to_k(x), self.to_v(x))

    def fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for y in (q, k, v))  # ... m f d
        return attend(q, k, v).transpose(-3, -2).flatten(-2)


class TemporalAttentionLayer(Inserted):
    """Runs on a transformer block's tokens, ``(b f) n c``. ``norm_temp`` is there in the released checkpoints
    and does not learn."""

    def __init__(self, channels: int, heads: int, context: ForwardContext) -> None:
        super().__init__(context)
        self.norm_temp = nn.LayerNorm(channels)
        self.attn_temp = FrameAttention(channels, heads)
        for p in self.silent_outputs():
            nn.init.zeros_(p)

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        clip = x.unflatten(0, (-1, self.context.frames())).transpose(1, 2)  # b n f c
        return (clip + self.attn_temp(self.norm_temp(clip))).transpose(1, 2).flatten(0, 1)

    def silent_outputs(self) -> list[nn.Parameter]:
        """Weight and bias: the released code zeroes the weight alone, so that its layer is not born
        silent."""
        return list(self.attn_temp.to_out[0].parameters())


@spec
class TemporalAttentionSpec(LayerSpec):
    """``heads`` 0: as many as the image UNet's own attention has at that site."""

    heads: int = 0

    def __post_init__(self) -> None:
        if self.heads < 0:
            raise ValueError(
                "temporal attention heads must be at least 1, or 0 for the image UNet's own, got "
                f"{self.heads}"
            )

    def build(self, site: Site, module: nn.Module, context: ForwardContext) -> Inserted:
        return TemporalAttentionLayer(site.channels, self.heads_at(site), context)

    def heads_at(self, site: Site) -> int:
        """Raises ValueError where they do not divide the channels."""
        heads = self.heads or site.heads
        if not heads or site.channels % heads:
            raise ValueError(
                f"temporal attention heads must divide the {site.channels} channels of {site.path}, got "
                f"{heads}; "
                "set method.temporal.heads to a divisor"
            )
        return heads


class ClipAttentionLayer(TemporalAttentionLayer):
    """The same, left out where frames are pictures of their own (Control-A-Video, Chen et al. 2023)."""

    OVER_TIME: ClassVar[bool] = True


@spec
class ClipAttentionSpec(TemporalAttentionSpec):
    """Knobs of :class:`ClipAttentionLayer`."""

    def build(self, site: Site, module: nn.Module, context: ForwardContext) -> ClipAttentionLayer:
        return ClipAttentionLayer(site.channels, self.heads_at(site), context)


class AttentionBesideWords(Inserted):
    """Adds attention over frames to what a block's ``attn2`` says, of the same input, which is normed already
    (DisCo, Wang et al. 2023). A new one adds nothing."""

    READS_INPUT: ClassVar[bool] = True
    OVER_TIME: ClassVar[bool] = True

    def __init__(self, channels: int, heads: int, context: ForwardContext) -> None:
        super().__init__(context)
        self.attn_temp = FrameAttention(channels, heads)
        for p in self.silent_outputs():
            nn.init.zeros_(p)

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        (hidden,) = given
        clip = hidden.unflatten(0, (-1, self.context.frames())).transpose(1, 2)  # b n f c
        return x + self.attn_temp(clip).transpose(1, 2).flatten(0, 1)

    def silent_outputs(self) -> list[nn.Parameter]:
        return list(self.attn_temp.to_out[0].parameters())


@spec
class AttentionBesideWordsSpec(TemporalAttentionSpec):
    """Knobs of :class:`AttentionBesideWords`, which stands at sites of kind ``attn2``."""

    def build(self, site: Site, module: nn.Module, context: ForwardContext) -> Inserted:
        return AttentionBesideWords(site.channels, self.heads_at(site), context)
