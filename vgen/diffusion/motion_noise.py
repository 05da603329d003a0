"""Noise that moves as a clip does: what stands still keeps the noise of the frame before (Control-A-Video,
Chen et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vgen.diffusion.draws import Draws
from vgen.diffusion.start import NO_FIELDS, Iid, Start
from vgen.spec import spec


@spec
class Residual(Start):
    """A cell gets noise of its own where the picture has changed since the frame before, by more than
    ``threshold`` of the clip's greatest change; elsewhere it keeps that frame's.

    The pictures are ``source``, or ``video`` in training, uint8 b f 3 H W. What is drawn
    without a ``source`` has noise of its own in every frame, as in the released code.
    """

    threshold: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(
                f"the threshold of changes is a share of the greatest one, 0 to 1, got {self.threshold:g}; "
                "the released code's is 0.1"
            )

    def reads(self) -> tuple[str, ...]:
        return ("source",)

    def noise(
        self, draws: Draws, like: Tensor, purpose: str = "start", fields: Mapping[str, Any] = NO_FIELDS
    ) -> Tensor:
        own = Iid().noise(draws, like, purpose)
        pictures = fields.get("source", fields.get("video"))
        if pictures is None and "latents" in fields:
            raise ValueError(
                "noise by what has changed looks at pixels, and a latent cache has none; set "
                "data.cache=false, or method.noise=iid"
            )
        if pictures is None or own.shape[1] == 1:
            return own
        moved = changes(pictures.to(own.device), own.shape[-2], own.shape[-1]) > self.threshold
        out = [own[:, 0]]
        for frame in range(1, own.shape[1]):
            out.append(torch.where(moved[:, frame - 1, None], own[:, frame], out[-1]))
        return torch.stack(out, 1)


def changes(pictures: Tensor, height: int, width: int) -> Tensor:
    """How much each cell changes from a frame to the next, b f-1 ``height`` ``width``, in shares of the
    greatest change of a pixel in the clip; ``pictures`` b f 3 H W."""
    change = pictures.float().diff(dim=1).abs()
    greatest = change.flatten(1).amax(1).clamp_min(1e-6)
    change = change / greatest[:, None, None, None, None]
    small = F.interpolate(change.flatten(0, 1), (height, width), mode="bilinear").mean(1)
    return small.unflatten(0, change.shape[:2])


@spec
class Flow(Start):
    """Each cell has the noise of the place that it has come from, by ``flow`` b f-1 2 h w in pixels from each
    frame to the next; what has come from outside has noise of its own.

    Places are whole cells: a mean of neighbours would be quieter than noise.
    """

    def reads(self) -> tuple[str, ...]:
        return ("flow",)

    def noise(
        self, draws: Draws, like: Tensor, purpose: str = "start", fields: Mapping[str, Any] = NO_FIELDS
    ) -> Tensor:
        own = Iid().noise(draws, like, purpose)
        if own.shape[1] == 1:
            return own
        if "flow" not in fields:
            raise ValueError(
                "noise that follows the flow needs the field flow, and the clips have only "
                f"{', '.join(sorted(fields))}; give flow=FILE or flow.of=VIDEO, or take another noise"
            )
        steps = cells_moved(fields["flow"].to(own), own.shape[-2], own.shape[-1])
        out = [own[:, 0]]
        for frame in range(1, own.shape[1]):
            out.append(carried(out[-1], steps[:, frame - 1], own[:, frame]))
        return torch.stack(out, 1)


def cells_moved(flow: Tensor, height: int, width: int) -> Tensor:
    """Whole cells to the right and down, int64 b f-1 2 ``height`` ``width``."""
    per_cell = flow.new_tensor([flow.shape[-1] / width, flow.shape[-2] / height])
    small = F.interpolate(flow.flatten(0, 1), (height, width), mode="area").unflatten(0, flow.shape[:2])
    return (small / per_cell[:, None, None]).round().long()


def carried(before: Tensor, moved: Tensor, own: Tensor) -> Tensor:
    """``before`` b c h w, carried along ``moved`` b 2 h w; ``own`` where it would come from outside."""
    height, width = before.shape[-2:]
    y = torch.arange(height, device=before.device)[:, None] - moved[:, 1]
    x = torch.arange(width, device=before.device) - moved[:, 0]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    at = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).flatten(1)[:, None]
    from_there = before.flatten(2).gather(2, at.expand(-1, before.shape[1], -1)).view_as(before)
    return torch.where(inside[:, None], from_there, own)
