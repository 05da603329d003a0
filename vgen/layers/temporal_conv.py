"""A convolution over frames behind one over the picture: pseudo-3D convolution (Make-A-Video, Singer et al.
2022, section 3.2; Control-A-Video, Chen et al. 2023), or a residual one (DisCo, Wang et al. 2023)."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from vgen.backbones.conditioning import ForwardContext
from vgen.backbones.sites import Site
from vgen.layers.insertion import Inserted, LayerSpec
from vgen.spec import spec


class TemporalConv(Inserted):
    """Runs on ``(b f) c h w``; frames outside the clip are zero. A new one hands on each frame as it is."""

    OVER_TIME: ClassVar[bool] = True

    def __init__(self, channels: int, kernel: int, context: ForwardContext) -> None:
        super().__init__(context)
        self.conv_temporal = nn.Conv1d(channels, channels, kernel, padding=kernel // 2)
        weight, bias = self.conv_temporal.parameters()
        nn.init.dirac_(weight)
        nn.init.zeros_(bias)

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        clip = x.unflatten(0, (-1, self.context.frames()))  # b f c h w
        batch, _, _, height, width = clip.shape
        lines = clip.permute(0, 3, 4, 2, 1).flatten(0, 2)  # (b h w) c f
        mixed = self.conv_temporal(lines).unflatten(0, (batch, height, width))
        return mixed.permute(0, 4, 3, 1, 2).flatten(0, 1)

    def silent_outputs(self) -> list[nn.Parameter]:
        """All of them: at birth they are the identity."""
        return list(self.conv_temporal.parameters())


@spec
class TemporalConvSpec(LayerSpec):
    """``kernel``: how many frames are seen together, an odd number."""

    kernel: int = 3

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(
                f"the kernel of a convolution over frames must be odd and at least 1, got {self.kernel}; the "
                "paper's is 3"
            )

    def build(self, site: Site, module: nn.Module, context: ForwardContext) -> Inserted:
        return TemporalConv(site.channels, self.kernel, context)


class ResidualTemporalConv(Inserted):
    """Adds a convolution over frames, behind a norm over the clip and SiLU, to ``(b f) c h w``. A new one
    adds nothing."""

    OVER_TIME: ClassVar[bool] = True

    def __init__(self, channels: int, groups: int, kernel: int, context: ForwardContext) -> None:
        super().__init__(context)
        self.norm_temporal = nn.GroupNorm(groups, channels)
        self.conv_temporal = nn.Conv1d(channels, channels, kernel, padding=kernel // 2)
        for p in self.silent_outputs():
            nn.init.zeros_(p)

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        clip = x.unflatten(0, (-1, self.context.frames())).transpose(1, 2)  # b c f h w
        batch, _, _, height, width = clip.shape
        lines = F.silu(self.norm_temporal(clip)).permute(0, 3, 4, 1, 2).flatten(0, 2)  # (b h w) c f
        found = self.conv_temporal(lines).unflatten(0, (batch, height, width))
        return x + found.permute(0, 4, 3, 1, 2).flatten(0, 1)

    def silent_outputs(self) -> list[nn.Parameter]:
        return list(self.conv_temporal.parameters())


@spec
class ResidualTemporalConvSpec(TemporalConvSpec):
    """Knobs of :class:`ResidualTemporalConv`."""

    def build(self, site: Site, module: nn.Module, context: ForwardContext) -> Inserted:
        return ResidualTemporalConv(site.channels, site.norm_groups, self.kernel, context)
