"""Fields as the pictures that a ControlNet is shown."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vgen.conditions.figures import stick_figures


def picture_of(name: str, field: Tensor, height: int, width: int) -> Tensor:
    """The field ``name`` of a batch as float b f 3 H W in [0, 1].

    Only a pose, which has no size of its own, is drawn at ``height`` and ``width``. Bytes b f 3 H W are shown
    as they are, whatever they show. Raises ValueError for what is no picture.
    """
    ready = field.dtype == torch.uint8 and field.ndim == 5
    match "" if ready else name:
        case "pose":
            return stick_figures(field, height, width)
        case "depth":
            return _grey(nearness(field))
        case "flow":
            return colour_wheel(field)
    if field.ndim == 4:
        return _grey(_shares(field))
    if field.ndim == 5 and field.shape[2] == 3:
        return _shares(field)
    raise ValueError(f"control pictures must be b f 3 H W in [0, 1], got shape {tuple(field.shape)}")


def nearness(depth: Tensor) -> Tensor:
    """``depth`` b f h w, larger is farther, as 1 at each clip's nearest place and 0 at its farthest.

    The ends are those of the clip, not of its frames: a frame's own would flicker. Raises ValueError where a
    depth is not finite or below 0.
    """
    if not bool(torch.isfinite(depth).all()) or bool((depth < 0).any()):
        raise ValueError(
            "depth must be finite and 0 or more, the distance from the camera in any unit, got values from "
            f"{depth.amin().item():g} to {depth.amax().item():g}; write distances, with a number everywhere"
        )
    low, high = (edge(depth, dim=(1, 2, 3), keepdim=True) for edge in (torch.amin, torch.amax))
    span = high - low
    return torch.where(span > 0, (high - depth) / span.clamp_min(1e-12), torch.zeros_like(depth))


def colour_wheel(flow: Tensor) -> Tensor:
    """``flow`` b f 2 h w in pixels as colours: hue is the direction, strength that over the clip's greatest.

    White is no motion (Baker et al. 2011).
    """
    strength = flow.norm(dim=2)
    strength = strength / strength.amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-6)
    angle = torch.atan2(flow[:, :, 1], flow[:, :, 0])
    thirds = torch.arange(3, device=flow.device) * (2 * math.pi / 3)
    hue = 0.5 + 0.5 * torch.cos(angle[:, :, None] - thirds[:, None, None])
    return 1 - strength[:, :, None] * (1 - hue)


def _shares(field: Tensor) -> Tensor:
    """Bytes as shares of 255; what is real stays."""
    return field if field.is_floating_point() else field.float() / 255


def _grey(field: Tensor) -> Tensor:
    return field[:, :, None].expand(-1, -1, 3, -1, -1)
