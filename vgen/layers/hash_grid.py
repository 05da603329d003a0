"""Features on grids of several resolutions, kept in hash tables (Instant NGP, Mueller et al. 2022, section
3), in plain torch; and the annealing of levels from coarse to fine.

Indices, primes and resolutions are those of tiny-cuda-nn, which has no code for CPUs.
"""

from __future__ import annotations

import math
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vgen.spec import spec

PRIMES = (1, 2_654_435_761, 805_459_861)
"""Factors of the spatial hash (equation 4), one per dimension."""
BORN_WITHIN = 1e-4
"""Features start uniform in plus and minus this (section 4)."""


@spec
class HashGridSpec:
    """``num_levels`` grids, each ``growth`` times as fine as the one before, the first with
    ``base_resolution`` cells; ``num_features`` per vertex, at most 2 to the ``log2_entries`` vertices a
    level."""

    num_levels: int = 16
    num_features: int = 2
    log2_entries: int = 19
    base_resolution: int = 16
    growth: float = 1.38

    def __post_init__(self) -> None:
        if min(self.num_levels, self.num_features, self.base_resolution) < 1:
            raise ValueError(
                "a hash grid has at least 1 level, 1 feature and 1 cell, got "
                f"num_levels={self.num_levels} num_features={self.num_features} "
                f"base_resolution={self.base_resolution}"
            )
        if not 1 <= self.log2_entries <= 24:
            raise ValueError(f"log2_entries lies in 1..24, got {self.log2_entries}; the paper's is 19")
        if not 1 <= self.growth < math.inf:
            raise ValueError(f"growth must be 1 or more, got {self.growth}; the paper's is 1.38")

    def scales(self) -> list[float]:
        """Cells along a side less one, by level."""
        return [self.base_resolution * self.growth**i - 1 for i in range(self.num_levels)]

    def resolutions(self) -> list[int]:
        """Vertices along a side, by level."""
        return [math.ceil(scale) + 1 for scale in self.scales()]

    def entries(self, dims: int) -> list[int]:
        """Rows of the table, by level: all vertices, rounded up to 8, where so many are allowed."""
        most = 2**self.log2_entries
        return [min(-(-(side**dims) // 8) * 8, most) for side in self.resolutions()]


class HashGrid(nn.Module):
    """Points n d in [0, 1] to features n (l f): every level interpolated linearly between the 2^d vertices
    around the point. Levels whose vertices exceed their table share its rows by hash."""

    def __init__(self, spec: HashGridSpec, dims: int) -> None:
        super().__init__()
        self.spec, self.dims = spec, dims
        entries = spec.entries(dims)
        self.table = nn.Parameter(torch.empty(sum(entries), spec.num_features))
        nn.init.uniform_(self.table, -BORN_WITHIN, BORN_WITHIN)
        self.num_features = spec.num_levels * spec.num_features

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """``weights`` l: how loud each level is; None: all are as they are."""
        scales = torch.tensor(self.spec.scales(), device=x.device, dtype=x.dtype)
        place = x[:, None] * scales[:, None] + 0.5  # n l d
        cell = place.detach().floor()
        inside, first = place - cell, cell.long()
        rows, shares = [], []
        for corner in product((0, 1), repeat=self.dims):
            step = torch.tensor(corner, device=x.device)
            rows.append(self._rows(first + step))
            shares.append(torch.where(step == 1, inside, 1 - inside).prod(-1))
        values = F.embedding(torch.stack(rows, -1), self.table)  # n l 2^d f
        out = (values * torch.stack(shares, -1)[..., None]).sum(-2)
        if weights is not None:
            out = out * weights.to(out)[:, None]
        return out.flatten(1)

    def _rows(self, vertex: Tensor) -> Tensor:
        """Rows of the table, n l, of vertices n l d."""
        device = vertex.device
        entries = self.spec.entries(self.dims)
        sides = torch.tensor(self.spec.resolutions(), device=device)
        sizes = torch.tensor(entries, device=device)
        offsets = sizes.cumsum(0) - sizes
        dense = torch.zeros_like(vertex[..., 0])
        hashed, stride = torch.zeros_like(dense), torch.ones_like(sides)
        for axis in range(self.dims):
            dense = dense + vertex[..., axis] * stride
            hashed = hashed ^ (vertex[..., axis] * PRIMES[axis])
            stride = stride * sides
        return torch.where(stride <= sizes, dense, hashed) % sizes + offsets


def level_weights(progress: float, num_levels: int) -> Tensor:
    """How loud each level is at a share ``progress`` of its annealing: one after the other from 0 to 1 along
    a half cosine (Park et al. 2021, Nerfies, equation 8)."""
    behind = num_levels * progress - torch.arange(num_levels, dtype=torch.float32)
    return (1 - torch.cos(math.pi * behind.clamp(0, 1))) / 2
