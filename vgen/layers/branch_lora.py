"""Low-rank layers that are heard in one branch of guidance alone (HCP-Diffusion's DreamArtist++)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from vgen.backbones.conditioning import ForwardContext
from vgen.backbones.sites import Site
from vgen.layers.insertion import LayerSpec
from vgen.layers.lora import LowRank
from vgen.spec import spec


class BranchLowRank(LowRank):
    """In each row as loud as the context's weights of the name ``branch`` say; heard in all rows where they
    say nothing."""

    def __init__(
        self, like: nn.Module, rank: int, alpha: float, branch: str, context: ForwardContext
    ) -> None:
        super().__init__(like, rank, alpha, context)
        self.branch = branch

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        weight = self.context.conditioning.weights.get(self.branch)
        if weight is None:
            return LowRank.forward(self, x, *given)
        rows = weight.repeat_interleave(len(x) // len(weight))  # b to (b f)
        loud = self.scale * rows.view(-1, *[1] * (x.ndim - 1)).to(x)
        return x + loud * self.up(self.down(given[0]))


@spec
class BranchLowRankSpec(LayerSpec):
    """``branch`` names the weight that it is heard by. Its rank is ``rank_share`` of what the projection
    gives, at least 1; ``alpha`` over the rank is its scale."""

    branch: str = "positive"
    rank_share: float = 0.01875
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.rank_share <= 1:
            raise ValueError(
                f"rank_share is a share of a projection's width, above 0 and up to 1, got {self.rank_share}; "
                "0.01875 is usual"
            )
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"lora alpha must be above 0, got {self.alpha}; 1 is usual")

    def build(self, site: Site, module: nn.Module, context: ForwardContext) -> BranchLowRank:
        assert isinstance(module.weight, Tensor)  # of a projection or a convolution
        rank = max(1, round(len(module.weight) * self.rank_share))
        return BranchLowRank(module, rank, self.alpha, self.branch, context)
