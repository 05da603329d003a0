"""Laws of the hash grid: its equations, one vertex at a time; its gradients; and levels that come in one by
one."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from vgen.layers.hash_grid import PRIMES, HashGrid, HashGridSpec, level_weights

SMALL = HashGridSpec(num_levels=5, log2_entries=6, base_resolution=3, growth=1.7)
"""Two dense levels in two dimensions, three that are hashed."""


def grid_of(dims: int) -> HashGrid:
    torch.manual_seed(dims)
    grid = HashGrid(SMALL, dims).double()
    torch.nn.init.normal_(grid.table)
    return grid


def by_equation(grid: HashGrid, point: list[float]) -> list[float]:
    """Features of one point as sections 3 and 4 of the paper and tiny-cuda-nn's addresses say."""
    out, offset = [], 0
    for level in range(SMALL.num_levels):
        scale = 3 * 1.7**level - 1
        side = math.ceil(scale) + 1
        size = min(-(-(side**grid.dims) // 8) * 8, 64)
        place = [x * scale + 0.5 for x in point]
        value = torch.zeros(SMALL.num_features, dtype=torch.float64)
        for corner in product((0, 1), repeat=grid.dims):
            vertex = [math.floor(x) + step for x, step in zip(place, corner, strict=True)]
            row, share = 0, 1.0
            for axis, at in enumerate(vertex):
                dense = side**grid.dims <= size
                row = row + at * side**axis if dense else row ^ (at * PRIMES[axis] % 2**32)
                part = place[axis] - math.floor(place[axis])
                share *= part if corner[axis] else 1 - part
            value += share * grid.table[offset + row % size].detach()
        out += value.tolist()
        offset += size
    return out


@pytest.mark.parametrize("dims", [2, 3])
def test_features_follow_the_papers_equations(dims: int) -> None:
    grid = grid_of(dims)
    points = torch.rand(20, dims, dtype=torch.float64)
    wanted = torch.tensor([by_equation(grid, point) for point in points.tolist()], dtype=torch.float64)
    torch.testing.assert_close(grid(points), wanted)


@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_are_finite_differences(dims: int) -> None:
    """Of the point, and of the table."""
    grid = grid_of(dims)
    points = torch.rand(4, dims, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(SMALL.num_levels, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: grid(x, weights), (points,))
    table = grid.table.detach().clone().requires_grad_(True)

    def features(values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(grid, {"table": values}, (points.detach(),))

    assert torch.autograd.gradcheck(features, (table,))


def test_levels_come_in_one_after_the_other() -> None:
    steps = torch.stack([level_weights(i / 100, 16) for i in range(101)])
    assert not steps[0].any()
    assert torch.equal(steps[-1], torch.ones(16))
    assert (steps.diff(dim=0) >= 0).all()
    assert (steps[:, :-1] >= steps[:, 1:]).all()  # coarse before fine
    assert torch.equal(level_weights(0.5, 16), torch.tensor([1.0] * 8 + [0.0] * 8))


def test_a_silent_level_is_not_heard() -> None:
    grid = grid_of(2)
    points = torch.rand(6, 2, dtype=torch.float64)
    heard = grid(points, level_weights(0.6, SMALL.num_levels))
    assert torch.equal(heard[:, :6], grid(points)[:, :6])
    assert not heard[:, 6:].any()


def test_tables_of_the_papers_sizes() -> None:
    """tiny-cuda-nn's rule: all vertices rounded up to 8, at most 2^19."""
    assert sum(HashGridSpec().entries(3)) == 6_098_120
    assert sum(HashGridSpec(growth=1.44).entries(2)) == 3_349_496


@pytest.mark.parametrize(
    ("knobs", "said"),
    [({"num_levels": 0}, "at least 1 level"), ({"log2_entries": 40}, "1..24"), ({"growth": 0.5}, "growth")],
)
def test_what_no_grid_can_be(knobs: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        HashGridSpec(**knobs)
