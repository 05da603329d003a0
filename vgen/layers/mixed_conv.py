"""Convolutions over frames behind a residual block, mixed with it (Blattmann et al. 2023, Align your Latents,
section 3.1; ``TemporalResnetBlock`` of Stable Video Diffusion)."""

from __future__ import annotations

import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from vgen.backbones.conditioning import ForwardContext
from vgen.backbones.sites import Kind, Site
from vgen.layers.insertion import Inserted, LayerSpec
from vgen.layers.mixing import MixedLayer, Mixing
from vgen.spec import spec

KERNEL, PADDING = (3, 1, 1), (1, 0, 0)


class FrameResidual(nn.Module):
    """Twice GroupNorm, SiLU and a convolution of three frames and one pixel, added to ``b c f h w``. Frames
    outside the clip are zero."""

    def __init__(self, channels: int, groups: int, time_width: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, eps=eps)
        self.conv1 = nn.Conv3d(channels, channels, KERNEL, padding=PADDING)
        self.time_emb_proj = nn.Linear(time_width, channels) if time_width else None
        self.norm2 = nn.GroupNorm(groups, channels, eps=eps)
        self.conv2 = nn.Conv3d(channels, channels, KERNEL, padding=PADDING)

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        """``time`` b f d is the embedding of diffusion time, where the residual block has one."""
        y = self.conv1(F.silu(self.norm1(x)))
        if self.time_emb_proj is not None and time is not None:
            y = y + self.time_emb_proj(F.silu(time)).transpose(1, 2)[..., None, None]
        return x + self.conv2(F.silu(self.norm2(y)))


class MixedConv(MixedLayer):
    """Runs on ``(b f) c h w``. Where the context has feature maps of the name ``reading``, the branch over
    frames reads the one of its level, added to its input."""

    READS_TIME = True

    def __init__(
        self, site: Site, time_width: int, eps: float, knobs: MixedConvSpec, context: ForwardContext
    ) -> None:
        super().__init__(knobs.mixing, context)
        self.level = site.level
        self.reading = knobs.reading
        self.temporal_res_block = FrameResidual(site.channels, site.norm_groups, time_width, eps)

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        frames = self.context.frames()
        maps = self.context.conditioning.features.get(self.reading)
        told = x if maps is None else x + maps[self.level].to(x)
        clip = told.unflatten(0, (-1, frames)).transpose(1, 2)  # b c f h w
        time = given[0].unflatten(0, (-1, frames)) if given else None  # b f d
        return self.mixed(x, self.temporal_res_block(clip, time).transpose(1, 2).flatten(0, 1))


@spec
class MixedConvSpec(LayerSpec):
    """``reading`` names the feature maps that the branch over frames is told."""

    mixing: Mixing = Mixing.SHARE
    reading: str = "context"

    def build(self, site: Site, module: nn.Module, context: ForwardContext) -> Inserted:
        """Raises ValueError at a site that is no residual block."""
        if not isinstance(module, ResnetBlock2D) or site.kind is not Kind.RESNET:
            raise ValueError(
                f"a mixed convolution stands behind a residual block, got {site.kind.value} at {site.path}; "
                "insert it at sites of kind resnet"
            )
        embedded = module.time_emb_proj
        time_width = 0 if embedded is None else embedded.in_features
        return MixedConv(site, time_width, module.norm1.eps, self, context)
