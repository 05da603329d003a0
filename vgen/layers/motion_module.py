"""AnimateDiff's motion module: a transformer over frames at every position (Guo et al. 2023, section 4.2).

Module names are those of its checkpoints.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vgen.backbones.attend import attend
from vgen.backbones.conditioning import ForwardContext
from vgen.backbones.frame_attention import FrameAttending
from vgen.backbones.sites import Site
from vgen.layers.insertion import Inserted, LayerSpec
from vgen.layers.norm import NormScope
from vgen.spec import spec


def sinusoid(num_positions: int, channels: int) -> Tensor:
    """``1 p c``: interleaved sine and cosine (Vaswani et al. 2017, section 3.5)."""
    position = torch.arange(num_positions, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, channels, 2, dtype=torch.float32) * (-math.log(10000.0) / channels))
    table = torch.zeros(1, num_positions, channels)
    table[0, :, 0::2] = torch.sin(position * rate)
    table[0, :, 1::2] = torch.cos(position * rate)
    return table


class PositionalEncoding(nn.Module):
    """Adds one row per frame. The table is a persistent buffer: readers of exported files identify a version
    by it."""

    pe: Tensor

    def __init__(self, channels: int, num_positions: int) -> None:
        super().__init__()
        self.register_buffer("pe", sinusoid(num_positions, channels))

    def forward(self, x: Tensor) -> Tensor:
        num_frames, rows = x.shape[-2], self.pe.shape[1]
        if num_frames > rows:
            raise ValueError(
                f"clip has {num_frames} frames but the motion module has {rows} position rows; "
                f"generate in sliding windows (window.num_frames={rows}) or raise "
                "method.motion.num_positions and train"
            )
        return x + self.pe[:, :num_frames].to(x.dtype)


class TemporalAttention(FrameAttending):
    """Self-attention over frames, ``n f c``; one matrix product gives q, k and v.

    Except where somebody hooked the three projections: ZeRO-3 gathers a weight only when the layer that owns
    it is called.
    """

    def __init__(self, channels: int, heads: int, num_positions: int) -> None:
        super().__init__()
        self.heads = heads
        self.pos_encoder = PositionalEncoding(channels, num_positions)
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        projections, x = (self.to_q, self.to_k, self.to_v), self.pos_encoder(x)
        if any(p._forward_pre_hooks or p._forward_hooks for p in projections):
            qkv = torch.cat([project(x) for project in projections], -1)
        else:
            qkv = F.linear(x, torch.cat([project.weight for project in projections]))
        return self.attended(x, *qkv.chunk(3, -1))

    def fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))  # n m f d
        return attend(q, k, v).transpose(1, 2).flatten(2)


class GeGlu(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, channels: int, factor: int = 4) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [GeGlu(channels, channels * factor), nn.Identity(), nn.Linear(channels * factor, channels)]
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class TemporalBlock(nn.Module):
    """``num_attentions`` x (norm, attention, add), then norm, GEGLU feed-forward, add."""

    def __init__(self, channels: int, heads: int, num_positions: int, num_attentions: int) -> None:
        super().__init__()
        self.attention_blocks = nn.ModuleList(
            TemporalAttention(channels, heads, num_positions) for _ in range(num_attentions)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(num_attentions))
        self.ff = FeedForward(channels)
        self.ff_norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        for norm, attention in zip(self.norms, self.attention_blocks, strict=True):
            x = x + attention(norm(x))
        return x + self.ff(self.ff_norm(x))


class TemporalTransformer(nn.Module):
    def __init__(self, channels: int, knobs: MotionModuleSpec, norm_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        blocks = (
            TemporalBlock(channels, knobs.heads, knobs.num_positions, knobs.num_attentions)
            for _ in range(knobs.num_blocks)
        )
        self.transformer_blocks = nn.ModuleList(blocks)
        self.proj_out = nn.Linear(channels, channels)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)


class MotionModule(Inserted):
    """Residual temporal transformer; an identity until ``proj_out`` has learnt something."""

    def __init__(
        self, channels: int, knobs: MotionModuleSpec, norm_groups: int, context: ForwardContext
    ) -> None:
        super().__init__(context)
        self.norm_scope = knobs.norm_scope
        self.temporal_transformer = TemporalTransformer(channels, knobs, norm_groups)

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        f, (c, h, w) = self.context.frames(), x.shape[1:]
        inner = self.temporal_transformer
        clip = x.unflatten(0, (-1, f))
        if self.norm_scope is NormScope.CLIP:
            y = inner.norm(clip.transpose(1, 2)).permute(0, 3, 4, 2, 1)  # statistics over b c f h w
        else:
            y = inner.norm(x).unflatten(0, (-1, f)).permute(0, 3, 4, 1, 2)
        y = inner.proj_in(y.reshape(-1, f, c))
        for block in inner.transformer_blocks:
            y = block(y)
        y = inner.proj_out(y).reshape(-1, h, w, f, c).permute(0, 3, 4, 1, 2)
        return (clip + y).flatten(0, 1)

    def silent_outputs(self) -> list[nn.Parameter]:
        return list(self.temporal_transformer.proj_out.parameters())


@spec
class MotionModuleSpec(LayerSpec):
    """Knobs of the motion module with the paper's values."""

    free: ClassVar[frozenset[str]] = frozenset({"num_positions"})  # the table is computed, not learnt

    heads: int = 8
    num_attentions: int = 2
    num_blocks: int = 1
    num_positions: int = 32
    norm_scope: NormScope = NormScope.FRAME

    def __post_init__(self) -> None:
        for name in ("heads", "num_attentions", "num_blocks", "num_positions"):
            if getattr(self, name) < 1:
                raise ValueError(f"motion module {name} must be at least 1, got {getattr(self, name)}")

    def build(self, site: Site, module: nn.Module, context: ForwardContext) -> MotionModule:
        if site.channels % self.heads:
            raise ValueError(
                f"motion module heads must divide the {site.channels} channels of {site.path}, got "
                f"{self.heads}; "
                "set method.motion.heads to a divisor"
            )
        return MotionModule(site.channels, self, site.norm_groups, context)
