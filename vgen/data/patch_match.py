"""Guided patch matching: a picture in the style of another, by patches that fit what guides them (Jamriska et
al. 2019, Stylizing Video by Example, in the manner of Barnes et al. 2009, PatchMatch), in torch: one code for
CPU and GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from vgen.spec import spec

STRIDES = (4, 1)
"""Distances over which neighbours hand on what they found: all positions at once, where the paper scans."""


@spec
class Matching:
    """``radius`` 2 is a patch of 5 x 5. ``rounds`` of matching and voting, each of ``searches`` passes of
    handing on and random search, which begins ``reach`` pixels around; ``style`` is what the style's own
    patches weigh beside the guides."""

    radius: int = 2
    rounds: int = 2
    searches: int = 3
    reach: int = 16
    style: float = 1.0

    def __post_init__(self) -> None:
        if min(self.radius, self.searches, self.reach, self.style) < 0 or self.rounds < 1:
            raise ValueError(
                "patch matching needs a radius, searches, reach and style of 0 or more and rounds of 1 or "
                f"more, got {self.radius}, {self.searches}, {self.reach}, {self.style:g} and {self.rounds}; "
                "2, 3, 16, 1 and 2 are usual"
            )


@dataclass(frozen=True, slots=True)
class Made:
    """``picture`` c h w, and ``error`` h w, what its patches and their guides differ by."""

    picture: Tensor
    error: Tensor


def made_alike(
    style: Tensor, source: Tensor, target: Tensor, field: Tensor, settings: Matching, seed: int = 0
) -> Made:
    """The picture that has ``style`` c h w where ``target`` looks as ``source``, guides g h w each.

    ``field`` int64 2 h w, row before column, says where in ``style`` each position begins to look.
    """
    draw = torch.Generator().manual_seed(seed)
    picture = voted(style, field, settings.radius)
    for _ in range(settings.rounds):
        there, here = (
            torch.cat([guides, settings.style**0.5 * look])
            for guides, look in ((source, style), (target, picture))
        )
        there, here = _side_by_side(there), _side_by_side(here)
        cost = _cost(there, here, field, settings.radius)
        for _ in range(settings.searches):
            for candidate in _candidates(field, settings.reach, draw):
                field, cost = _better(there, here, field, cost, candidate, settings.radius)
        picture = voted(style, field, settings.radius)
    return Made(picture, _cost(_side_by_side(source), _side_by_side(target), field, settings.radius))


def voted(style: Tensor, field: Tensor, radius: int) -> Tensor:
    """Every pixel as the mean of what the patches that cover it say, c h w."""
    look = _side_by_side(style)
    total = torch.zeros_like(look)
    rows, columns = positions(field)
    for down, across in _patch(radius):
        up, left = _inside(rows - down, columns - across, field)
        found = field[:, up, left]
        total += _at(look, found[0] + rows - up, found[1] + columns - left)
    return total.movedim(-1, 0) / (2 * radius + 1) ** 2


def positions(field: Tensor) -> tuple[Tensor, Tensor]:
    """Rows h w and columns h w of a field 2 h w."""
    h, w = field.shape[1:]
    down, across = (torch.arange(size, device=field.device) for size in (h, w))
    rows, columns = torch.meshgrid(down, across, indexing="ij")
    return rows, columns


def _candidates(field: Tensor, reach: int, draw: torch.Generator) -> Iterator[Tensor]:
    """What neighbours found, displaced as they are, then places around one's own, ever nearer. Read while
    the field is as it was before this pass."""
    rows, columns = positions(field)
    for stride in STRIDES:
        for down, across in ((stride, 0), (-stride, 0), (0, stride), (0, -stride)):
            up, left = _inside(rows - down, columns - across, field)
            yield field[:, up, left] + torch.stack([rows - up, columns - left])
    while reach >= 1:
        steps = torch.randint(-reach, reach + 1, field.shape, generator=draw)
        yield field + steps.to(field.device)
        reach //= 2


def _better(
    source: Tensor, target: Tensor, field: Tensor, cost: Tensor, candidate: Tensor, radius: int
) -> tuple[Tensor, Tensor]:
    """The candidate where it fits better; what fits equally well stays."""
    candidate = torch.stack(_inside(candidate[0], candidate[1], field))
    found = _cost(source, target, candidate, radius)
    wins = found < cost
    return torch.where(wins, candidate, field), torch.where(wins, found, cost)


def _cost(source: Tensor, target: Tensor, field: Tensor, radius: int) -> Tensor:
    """Squared difference of the patch at each position of ``target`` h w g and of the one at its place in
    ``source`` h w g, h w."""
    rows, columns = positions(field)
    total = torch.zeros_like(source[..., 0])
    for down, across in _patch(radius):
        up, left = _inside(rows + down, columns + across, field)
        there = _at(source, field[0] + up - rows, field[1] + left - columns)
        total += (there - _at(target, up, left)).square().sum(-1)
    return total


def _patch(radius: int) -> Iterator[tuple[int, int]]:
    reach = range(-radius, radius + 1)
    return product(reach, reach)


def _inside(rows: Tensor, columns: Tensor, field: Tensor) -> tuple[Tensor, Tensor]:
    h, w = field.shape[1:]
    return rows.clamp(0, h - 1), columns.clamp(0, w - 1)


def _at(picture: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``picture`` h w c read at places h w, those outside at its edge."""
    h, w = picture.shape[:2]
    flat = rows.clamp(0, h - 1) * w + columns.clamp(0, w - 1)
    return picture.flatten(0, 1).index_select(0, flat.flatten()).unflatten(0, (h, w))


def _side_by_side(picture: Tensor) -> Tensor:
    """c h w as h w c, whose values at a place lie side by side in memory: many are read at once."""
    return picture.movedim(0, -1).contiguous()
