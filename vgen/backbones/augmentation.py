"""Views of a picture that a gradient can pass: pieces of it, turned, tilted and in slightly other colours, as
CLIP is shown them (Text2LIVE, Bar-Tal et al. 2022, appendix A.2).

Pictures are in [0, 1]. Numbers are drawn on the CPU from the generator that is given.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

GREY = (0.299, 0.587, 0.114)
LEAST_PIECE = 0.6
TURN_DEGREES, SHIFT, TILT = 15.0, 0.1, 0.4
COLOUR_SHARE, SCALED_BY = 0.1, 0.2
FLIPPED, TURNED, TILTED, COLOURED, GREYED = 0.5, 0.8, 0.5, 0.7, 0.15
"""How often each happens."""


def views(picture: Tensor, num: int, side: int, draw: Generator) -> Tensor:
    """``num`` views n 3 side side of ``picture`` 3 H W: the first of the whole, the others of pieces, each
    augmented by itself; beyond the edges is white."""
    pieces = [picture, *(piece(picture, LEAST_PIECE, draw) for _ in range(num - 1))]
    return torch.stack([_augmented(sized(one, side), draw) for one in pieces])


def sized(picture: Tensor, side: int) -> Tensor:
    """3 H W as 3 side side."""
    return F.interpolate(picture[None], (side, side), mode="bilinear", align_corners=False)[0]


def piece(picture: Tensor, least: float, draw: Generator) -> Tensor:
    """A piece with between ``least`` and all of each side, anywhere."""
    share = _between(least, 1, draw)
    height, width = (max(1, int(side * share)) for side in picture.shape[-2:])
    top, left = (
        int(torch.randint(whole - part + 1, (1,), generator=draw))
        for whole, part in zip(picture.shape[-2:], (height, width), strict=True)
    )
    return picture[:, top : top + height, left : left + width]


def _augmented(picture: Tensor, draw: Generator) -> Tensor:
    there = torch.eye(3)
    if _happens(FLIPPED, draw):
        there = torch.diag(torch.tensor([-1.0, 1.0, 1.0])) @ there
    if _happens(TURNED, draw):
        there = there @ _turn(draw)
    if _happens(TILTED, draw):
        there = there @ _tilt(draw)
    out = warped(picture, there)
    if _happens(COLOURED, draw):
        out = jittered(out, draw)
    return grey(out).expand_as(out) if _happens(GREYED, draw) else out


def warped(picture: Tensor, there: Tensor) -> Tensor:
    """``picture`` 3 h w read at ``there`` (3 3) of each place; places run from -1 to 1, x first. White beyond
    the edges."""
    height, width = picture.shape[-2:]
    rows, columns = ((torch.arange(n) * 2 + 1) / n - 1 for n in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    at = torch.stack([x, y, torch.ones_like(x)], -1) @ there.T
    grid = (at[..., :2] / at[..., 2:]).to(picture)
    read: Tensor = F.grid_sample(picture[None] - 1, grid[None], "bilinear", "zeros", align_corners=False)
    return read[0] + 1


def _turn(draw: Generator) -> Tensor:
    angle = math.radians(_between(-TURN_DEGREES, TURN_DEGREES, draw))
    x, y = (2 * _between(-SHIFT, SHIFT, draw) for _ in range(2))
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, -sin, x], [sin, cos, y], [0, 0, 1]])


def _tilt(draw: Generator) -> Tensor:
    """The projective map of four corners moved inwards, by up to ``TILT`` of half a side, to the corners."""
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    moved = corners * (1 - TILT * torch.rand(4, 2, generator=draw))
    return homography(moved, corners)


def homography(given: Tensor, wanted: Tensor) -> Tensor:
    """The projective map 3 3 that takes four points ``given`` 4 2 to ``wanted`` 4 2."""
    rows = []
    for (x, y), (u, v) in zip(given.tolist(), wanted.tolist(), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    solved = torch.linalg.solve(torch.tensor(rows, dtype=torch.float64), wanted.double().flatten())
    return torch.cat([solved, solved.new_ones(1)]).view(3, 3).float()


def jittered(picture: Tensor, draw: Generator) -> Tensor:
    """Brightness, contrast, saturation and hue, each by up to a tenth."""
    brightness, contrast, saturation = (_between(1 - COLOUR_SHARE, 1 + COLOUR_SHARE, draw) for _ in range(3))
    out = (picture * brightness).clamp(0, 1)
    mean = grey(out).mean()
    out = (mean + contrast * (out - mean)).clamp(0, 1)
    plain = grey(out)
    out = (plain + saturation * (out - plain)).clamp(0, 1)
    return hue_turned(out, _between(-COLOUR_SHARE, COLOUR_SHARE, draw)).clamp(0, 1)


def hue_turned(picture: Tensor, share: float) -> Tensor:
    """Colours turned about the grey axis by a ``share`` of the circle (Rodrigues' formula)."""
    angle = 2 * math.pi * share
    along, third = math.cos(angle), 1 / 3
    across = math.sin(angle) * math.sqrt(third)
    equal = (1 - along) * third
    turn = picture.new_tensor(
        [
            [along + equal, equal - across, equal + across],
            [equal + across, along + equal, equal - across],
            [equal - across, equal + across, along + equal],
        ]
    )
    return torch.einsum("dc,chw->dhw", turn, picture)


def grey(picture: Tensor) -> Tensor:
    """1 h w."""
    return (picture * picture.new_tensor(GREY)[:, None, None]).sum(0, keepdim=True)


def input_view(picture: Tensor, least: float, draw: Generator) -> Tensor:
    """What a net is trained on, 3 h w of a size of its own: perhaps mirrored, up to a fifth larger or
    smaller, a piece of at least ``least`` of each side."""
    out = jittered(picture, draw) if _happens(COLOUR_SHARE, draw) else picture
    out = out.flip(-1) if _happens(FLIPPED, draw) else out
    scale = _between(1 - SCALED_BY, 1 + SCALED_BY, draw)
    height, width = (max(1, int(side * scale)) for side in out.shape[-2:])
    scaled = F.interpolate(out[None], (height, width), mode="bilinear", align_corners=False)
    return piece(scaled[0], least, draw)


def _happens(share: float, draw: Generator) -> bool:
    return float(torch.rand(1, generator=draw)) < share


def _between(low: float, high: float, draw: Generator) -> float:
    return low + (high - low) * float(torch.rand(1, generator=draw))
