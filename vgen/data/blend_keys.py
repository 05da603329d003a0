"""One frame of two: what two key frames say of a frame between them, by the smaller error, with the contrast
and the gradients of both (Jamriska et al. 2019, section 3.2; Yang et al. 2023, released code)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vgen.backbones.warp import Motion, moved
from vgen.data.patch_match import Made

PULL = (2.5, 0.5, 0.5)
"""What gradients weigh beside values, in lightness and in the two colours."""
STEEPEST = 100 / 255
"""Gradients beyond it are cut off."""


@dataclass(frozen=True, slots=True)
class Side:
    """A frame as the key before it and as the key behind it make it."""

    ahead: Made
    behind: Made


def blended(sides: Sequence[Side], back: Callable[[int], Motion], gradients: bool) -> Tensor:
    """Frames f 3 H W in [0, 1]; ``back(i)`` leads from frame i to the one before."""
    out: list[Tensor] = []
    behind: Tensor | None = None
    for i, side in enumerate(sides):
        share = i / len(sides)
        chosen = chosen_behind(side, share)
        if behind is not None:  # what was the key's behind stays its own
            carried = moved(behind[None, None].to(side.ahead.picture), back(i).flow, mode="nearest")
            chosen = chosen | (carried[0, 0] > 0)
        behind = chosen
        out.append(_joined(side, share, chosen, gradients))
    return torch.stack(out)


def chosen_behind(side: Side, share: float) -> Tensor:
    """bool H W: where the key behind fits better; the first frame is the key's before it alone."""
    if share == 0:
        return torch.zeros_like(side.ahead.error, dtype=torch.bool)
    return share * side.ahead.error >= (1 - share) * side.behind.error


def _joined(side: Side, share: float, behind: Tensor, gradients: bool) -> Tensor:
    a, b = (lab(made.picture) for made in (side.ahead, side.behind))
    best = torch.where(behind, b, a)
    mixed = contrasted((1 - share) * standard(a) + share * standard(b), best)
    if gradients:
        mixed = with_gradients(mixed.clamp(0, 1), a, b, behind)
    return rgb(mixed.clamp(0, 1)).clamp(0, 1)


def standard(picture: Tensor) -> Tensor:
    """Each channel of c H W with mean 0 and deviation 1; what is flat stays 0."""
    flat = picture.flatten(1)
    spread = flat.std(1, correction=0).clamp(min=1e-6)[:, None, None]
    return (picture - flat.mean(1)[:, None, None]) / spread


def contrasted(picture: Tensor, like: Tensor) -> Tensor:
    """With each channel's mean and deviation as in ``like``, c H W each."""
    flat = like.flatten(1)
    spread, mean = (found[:, None, None] for found in (flat.std(1, correction=0), flat.mean(1)))
    return standard(picture) * spread + mean


def with_gradients(picture: Tensor, a: Tensor, b: Tensor, behind: Tensor) -> Tensor:
    """The picture 3 H W nearest to ``picture`` and, by :data:`PULL`, to the gradients of ``a``, or of ``b``
    where ``behind`` (Perez et al. 2003, screened): solved at once by a cosine transform."""
    wanted = torch.zeros_like(picture)
    for axis in (1, 2):
        step = torch.where(
            behind, b.diff(dim=axis, append=_last(b, axis)), a.diff(dim=axis, append=_last(a, axis))
        )
        step = step.clamp(-STEEPEST, STEEPEST)
        wanted = wanted + step.roll(1, axis) - step  # minus the divergence; the last step is 0
    pull = torch.tensor(PULL).to(picture)[:, None, None] ** 2
    h, w = picture.shape[1:]
    down, across = (_bends(n, picture) for n in (h, w))
    bends = down[:, None] + across
    return _cosines(_cosines(picture + pull * wanted) / (1 + pull * bends), back=True)


def _bends(n: int, like: Tensor) -> Tensor:
    """What the second difference makes of each cosine over ``n`` pixels."""
    return 2 - 2 * torch.cos(math.pi / n * torch.arange(n, device=like.device, dtype=like.dtype))


def _last(picture: Tensor, axis: int) -> Tensor:
    return picture.narrow(axis, picture.shape[axis] - 1, 1)


def _cosines(picture: Tensor, back: bool = False) -> Tensor:
    """The orthonormal cosine transform (DCT-II) over both axes of c H W, or its inverse."""
    for axis in (1, 2):
        n = picture.shape[axis]
        at = torch.arange(n, device=picture.device, dtype=picture.dtype)
        basis = torch.cos(math.pi / n * (at + 0.5) * at[:, None]) * (2 / n) ** 0.5
        basis[0] /= 2**0.5
        picture = torch.tensordot(picture, basis, dims=([axis], [0 if back else 1])).movedim(-1, axis)
    return picture


_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.950456, 1.0, 1.088754)


def lab(picture: Tensor) -> Tensor:
    """sRGB 3 H W in [0, 1] to CIE Lab, scaled to [0, 1] as OpenCV scales bytes: L / 100, (a + 128) / 255."""
    linear = torch.where(picture > 0.04045, ((picture.clamp(min=0) + 0.055) / 1.055) ** 2.4, picture / 12.92)
    matrix, white = (torch.tensor(values).to(picture) for values in (_TO_XYZ, _WHITE))
    xyz = torch.einsum("ij,jhw->ihw", matrix / white[:, None], linear)
    f = torch.where(xyz > 0.008856, xyz.clamp(min=1e-9) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f
    return torch.stack([(116 * y - 16) / 100, (500 * (x - y) + 128) / 255, (200 * (y - z) + 128) / 255])


def rgb(picture: Tensor) -> Tensor:
    """The inverse of :func:`lab`."""
    y = (100 * picture[0] + 16) / 116
    x, z = y + (255 * picture[1] - 128) / 500, y - (255 * picture[2] - 128) / 200
    f = torch.stack([x, y, z])
    xyz = torch.where(f > 0.206893, f**3, (f - 16 / 116) / 7.787)
    matrix, white = (torch.tensor(values).to(picture) for values in (_TO_XYZ, _WHITE))
    linear = torch.einsum("ij,jhw->ihw", torch.linalg.inv(matrix / white[:, None]), xyz)
    curved = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, curved, 12.92 * linear)
