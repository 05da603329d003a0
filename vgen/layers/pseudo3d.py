"""Layers over frames behind layers of pixels: a convolution behind each convolution, attention behind each
self-attention (Singer et al. 2022, Make-A-Video, sections 3.2.1 and 3.2.2)."""

from __future__ import annotations

from torch import Tensor, nn

from vgen.backbones.conditioning import ForwardContext
from vgen.backbones.silent import Draw
from vgen.backbones.sites import Kind, Site, Where
from vgen.layers.insertion import Inserted, LayerSpec
from vgen.layers.temporal_attention import FrameAttention
from vgen.spec import spec

CONVOLUTIONS = Where(
    kinds=[Kind.CONV, Kind.CONV_IN, Kind.CONV_OUT],
    paths=["conv_in", "conv_out", "*.conv1", "*.conv2", "*.conv"],
)
"""The convolutions of a UNet that see more than one pixel."""


class PseudoConv(Inserted):
    """Convolves ``(b f) c h w`` over frames at every pixel; frames outside the clip are zero.

    A new one is the identity: its kernel is Dirac's. A still stays as it is.
    """

    def __init__(self, channels: int, kernel: int, context: ForwardContext) -> None:
        super().__init__(context)
        self.conv = nn.Conv1d(channels, channels, kernel, padding=kernel // 2)
        weight, bias = self.silent_outputs()
        nn.init.dirac_(weight)
        nn.init.zeros_(bias)

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        frames = self.context.frames()
        if frames == 1:
            return self.untouched(x)
        height, width = x.shape[-2:]
        lines = x.unflatten(0, (-1, frames)).permute(0, 3, 4, 2, 1).flatten(0, 2)  # (b h w) c f
        out = self.conv(lines).unflatten(0, (-1, height, width))  # b h w c f
        return out.permute(0, 4, 3, 1, 2).flatten(0, 1)

    def silent_outputs(self) -> list[nn.Parameter]:
        """Weight and bias."""
        return list(self.conv.parameters())

    def perturb(self, draw: Draw) -> None:
        """Less than other layers, since every output of the net goes through dozens of these."""
        super().perturb(lambda like: draw(like) / like[0].numel() ** 0.5)


@spec
class PseudoConvSpec(LayerSpec):
    """``kernel``: frames that one output sees, an odd number."""

    kernel: int = 3

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(
                f"a convolution over frames has an odd kernel of at least 1, got {self.kernel}; the usual "
                "one is 3"
            )

    def build(self, site: Site, module: nn.Module, context: ForwardContext) -> PseudoConv:
        """Raises ValueError at a site that is no convolution."""
        if not isinstance(module, nn.Conv2d):
            raise ValueError(
                f"{site.path} is a {type(module).__name__}, and a convolution over frames stands behind "
                "one of "
                "pixels; name sites of kind conv, conv_in or conv_out"
            )
        return PseudoConv(site.channels, self.kernel, context)


class PseudoAttention(Inserted):
    """Attends over frames at every position of ``(b f) n c``. A new one is silent: its output is zero. A
    still stays as it is."""

    def __init__(self, channels: int, heads: int, context: ForwardContext) -> None:
        super().__init__(context)
        self.norm = nn.LayerNorm(channels)
        self.attn = FrameAttention(channels, heads)
        for p in self.silent_outputs():
            nn.init.zeros_(p)

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        frames = self.context.frames()
        if frames == 1:
            return self.untouched(x)
        clip = x.unflatten(0, (-1, frames)).transpose(1, 2)  # b n f c
        return (clip + self.attn(self.norm(clip))).transpose(1, 2).flatten(0, 1)

    def silent_outputs(self) -> list[nn.Parameter]:
        return list(self.attn.to_out[0].parameters())


@spec
class PseudoAttentionSpec(LayerSpec):
    """``heads`` 0: as many as the self-attention that it stands behind."""

    heads: int = 0

    def __post_init__(self) -> None:
        if self.heads < 0:
            raise ValueError(
                f"attention over frames has at least 1 head, or 0 for the image UNet's own, got {self.heads}"
            )

    def build(self, site: Site, module: nn.Module, context: ForwardContext) -> PseudoAttention:
        """Raises ValueError at a site that is no self-attention, and for heads that do not divide its
        channels."""
        if site.kind is not Kind.ATTN1:
            raise ValueError(
                f"this attention over frames stands behind a self-attention, got {site.kind.value} at "
                f"{site.path}; "
                "insert it at sites of kind attn1"
            )
        heads = self.heads or site.heads
        if site.channels % heads:
            raise ValueError(
                f"attention heads must divide the {site.channels} channels of {site.path}, got {heads}; set "
                "method.attention.heads to a divisor"
            )
        return PseudoAttention(site.channels, heads, context)
