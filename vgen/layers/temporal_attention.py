"""Tune-A-Video's temporal attention: over frames at every position, after a block's feed-forward (Wu et al.
2022, section 4.1)."""

from __future__ import annotations

from typing import Any, ClassVar

from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

from vgen.backbones.attend import attend
from vgen.backbones.conditioning import ForwardContext
from vgen.backbones.frame_attention import FrameAttending
from vgen.backbones.sites import Kind, Site
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


class AttentionBeforeWords(Inserted):
    """Attention over frames between a block's self-attention and its cross-attention, and normed as that is
    (DisCo, Wang et al. 2023). It stands at ``attn1``. A new one adds nothing."""

    READS_INPUT: ClassVar[bool] = True
    OVER_TIME: ClassVar[bool] = True

    def __init__(self, channels: int, heads: int, context: ForwardContext) -> None:
        super().__init__(context)
        self.attn_temp = FrameAttention(channels, heads)
        self._entered: tuple[nn.Module, Tensor] | None = None
        for p in self.silent_outputs():
            nn.init.zeros_(p)

    def before_block(self, block: BasicTransformerBlock, args: tuple) -> None:
        """Remembers the tokens that the block is given, to which the self-attention's are added."""
        self._entered = block.norm2, args[0]

    def after(self, site: nn.Module, _args: tuple, out: Any) -> Any:
        assert self._entered is not None  # by the hook before the block
        (norm, tokens), self._entered = self._entered, None
        return super().after(site, (norm(tokens + out),), out)

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        """``given`` are the block's tokens behind its self-attention, normed."""
        (hidden,) = given
        clip = hidden.unflatten(0, (-1, self.context.frames())).transpose(1, 2)  # b n f c
        return x + self.attn_temp(clip).transpose(1, 2).flatten(0, 1)

    def silent_outputs(self) -> list[nn.Parameter]:
        return list(self.attn_temp.to_out[0].parameters())


@spec
class AttentionBeforeWordsSpec(TemporalAttentionSpec):
    """Knobs of :class:`AttentionBeforeWords`."""

    def build(self, site: Site, module: nn.Module, context: ForwardContext) -> Inserted:
        """Raises ValueError at a site that is no self-attention."""
        if site.kind is not Kind.ATTN1:
            raise ValueError(
                f"attention before words follows a self-attention, got {site.kind.value} at {site.path}; "
                "insert it at sites of kind attn1"
            )
        return AttentionBeforeWords(site.channels, self.heads_at(site), context)
