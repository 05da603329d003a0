"""Low-rank layers beside projections and convolutions (LoRA, Hu et al. 2021, section 4.1)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from vgen.backbones.conditioning import ForwardContext
from vgen.backbones.sites import Site
from vgen.layers.insertion import Inserted, LayerSpec
from vgen.spec import spec


class LowRank(Inserted):
    """W x + (alpha / rank) up(down(x)) beside a projection or a convolution W; ``up`` is zero at birth.

    Of a convolution, ``down`` has its kernel and stride, ``up`` is one by one.
    """

    READS_INPUT: ClassVar[bool] = True
    HOSTS: ClassVar[bool] = False

    def __init__(self, like: nn.Module, rank: int, alpha: float, context: ForwardContext) -> None:
        super().__init__(context)
        self.scale = alpha / rank
        self.down, self.up = _pair(like, rank)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        return x + self.scale * self.up(self.down(given[0]))

    def silent_outputs(self) -> list[nn.Parameter]:
        return list(self.up.parameters())

    def delta(self) -> Tensor:
        """What it adds to the weight that it stands beside, in that weight's shape."""
        return self.strength * self.scale * product(self.down.weight, self.up.weight)


def _pair(like: nn.Module, rank: int) -> tuple[nn.Linear | nn.Conv2d, nn.Linear | nn.Conv2d]:
    match like:
        case nn.Linear():
            down = nn.Linear(like.in_features, rank, bias=False)
            return down, nn.Linear(rank, like.out_features, bias=False)
        case nn.Conv2d() if like.groups == 1:
            wide = nn.Conv2d(
                like.in_channels,
                rank,
                like.kernel_size,  # type: ignore[arg-type]  # two numbers, which torch annotates as any many
                like.stride,  # type: ignore[arg-type]
                like.padding,  # type: ignore[arg-type]
                like.dilation,  # type: ignore[arg-type]
                bias=False,
            )
            return wide, nn.Conv2d(rank, like.out_channels, 1, bias=False)
        case _:
            raise ValueError(
                f"a low-rank layer stands beside a Linear or a Conv2d of one group, got {type(like).__name__}"
            )


def product(down: Tensor, up: Tensor) -> Tensor:
    """``up`` times ``down`` in the shape of the weight: o i, or o i h w of a convolution."""
    return (up.flatten(1) @ down.flatten(1)).unflatten(1, down.shape[1:])


def extract(delta: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """``down`` and ``up`` of the nearest change of a weight that has this rank (Eckart and Young 1936), both
    of one size; exact where ``delta`` o i (h w) has no higher rank."""
    u, s, v = torch.linalg.svd(delta.flatten(1).double(), full_matrices=False)
    root = s[:rank].sqrt()
    down = (root[:, None] * v[:rank]).to(delta).unflatten(1, delta.shape[1:])
    up = (u[:, :rank] * root).to(delta)
    return down, up if delta.ndim == 2 else up[:, :, None, None]


def truncated(down: Tensor, up: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest ``down`` and ``up`` of this rank at most, without forming their product."""
    left, upper = torch.linalg.qr(up.flatten(1).double())
    right, lower = torch.linalg.qr(down.flatten(1).double().T)
    u, s, v = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    root = s[:rank].sqrt()
    narrow = (root[:, None] * (v[:rank] @ right.T)).to(down).unflatten(1, down.shape[1:])
    wide = (left @ u[:, :rank] * root).to(up)
    return narrow, wide.reshape(*wide.shape, *up.shape[2:])


def summed(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """One ``down`` and ``up`` that add what all parts add; its rank is the sum of theirs."""
    downs, ups = zip(*parts, strict=True)
    return torch.cat(downs, 0), torch.cat(ups, 1)


@torch.no_grad()
def merge(weight: Tensor, layers: list[LowRank]) -> None:
    """Add to a weight, in place, what the layers beside it add."""
    for layer in layers:
        weight += layer.delta().to(weight)


@spec
class LowRankSpec(LayerSpec):
    """``alpha`` 0 stands for the rank, which leaves up times down as it is."""

    rank: int = 64
    alpha: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora rank must be at least 1, got {self.rank}")
        if not math.isfinite(self.alpha) or self.alpha < 0:
            raise ValueError(f"lora alpha must be a number that is not negative, got {self.alpha}")

    def build(self, site: Site, module: nn.Module, context: ForwardContext) -> LowRank:
        return LowRank(module, self.rank, self.alpha or float(self.rank), context)
