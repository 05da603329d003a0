"""Follow Your Pose's convolution over frames: two thin ones in a row at every position, after a transformer
block (Ma et al. 2024, section 3.3; ``conv_temporal`` in the released code)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from vgen.backbones.conditioning import ForwardContext
from vgen.backbones.sites import Site
from vgen.layers.insertion import Inserted, LayerSpec
from vgen.spec import spec


class LowRankConvLayer(Inserted):
    """Runs on a transformer block's tokens, ``(b f) n c``; frames outside the clip are zero.

    A new one is silent: its second convolution is zero.
    """

    KERNEL: ClassVar[int] = 3

    def __init__(self, channels: int, rank: int, context: ForwardContext) -> None:
        super().__init__(context)
        self.down = self._conv(channels, rank)
        self.up = self._conv(rank, channels)
        nn.init.normal_(self.down.weight, std=1 / rank)
        nn.init.zeros_(self.up.weight)

    def _conv(self, taken: int, given: int) -> nn.Conv1d:
        return nn.Conv1d(taken, given, self.KERNEL, padding=self.KERNEL // 2, bias=False)

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        clip = x.unflatten(0, (-1, self.context.frames()))  # b f n c
        lines = clip.permute(0, 2, 3, 1).flatten(0, 1)  # (b n) c f
        added = self.up(self.down(lines))
        added = added.unflatten(0, (len(clip), -1)).permute(0, 3, 1, 2)  # b f n c
        return x + added.flatten(0, 1)

    def silent_outputs(self) -> list[nn.Parameter]:
        return list(self.up.parameters())


@spec
class LowRankConvSpec(LayerSpec):
    """``rank``: channels between the two convolutions. Where it exceeds a block's channels, half of these,
    as released."""

    rank: int = 160

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(
                f"the rank of a convolution over frames must be at least 1, got {self.rank}; "
                "the paper's is 160"
            )

    def build(self, site: Site, module: nn.Module, context: ForwardContext) -> LowRankConvLayer:
        rank = self.rank if self.rank <= site.channels else site.channels // 2
        return LowRankConvLayer(site.channels, rank, context)
