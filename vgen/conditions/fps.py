"""How fast a clip's frames follow each other, told to the UNet, and drawn in training (Singer et al. 2022,
Make-A-Video, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vgen.backbones.conditioning import Conditioning
from vgen.backbones.image_model import ImageModel
from vgen.conditions.condition import Condition, Encoded, Fields
from vgen.diffusion.draws import Draws
from vgen.diffusion.moment import Moment
from vgen.spec import spec

FPS = "fps"
"""The field: frames per second of every clip, b."""


@spec
class FrameRate(Condition):
    """Says ``fps`` as it is. No row drops it."""

    def reads(self) -> tuple[str, ...]:
        return (FPS,)

    def encode(self, model: ImageModel, module: nn.Module | None, fields: Fields) -> Encoded:
        rates = torch.as_tensor(fields[FPS], dtype=torch.float32)
        if not bool((rates > 0).all() and rates.isfinite().all()):
            raise ValueError(
                f"fps must be above 0, got {rates.min().item():g}; write each clip's frame rate into its "
                ".json, "
                "or give fps=8"
            )
        return Encoded(clip={FPS: rates})

    def conditioning(
        self,
        module: nn.Module | None,
        encoded: Encoded,
        x: Tensor,
        t: Tensor,
        moment: Moment | None,
        so_far: Conditioning,
    ) -> Conditioning:
        return Conditioning(vector={FPS: encoded.clip[FPS].expand(len(x))})


@spec
class FrameRates:
    """Every ``skip``-th frame of a training clip is kept, with a skip of 1 to ``max_skip`` of its own.

    The course begins near 1, where little moves, and ends near ``max_skip``: the share of ``max_skip`` has
    Kumaraswamy's distribution (1980), which is shaped as a Beta's and can be drawn from one uniform number.
    ``sharpness`` 0 draws all skips alike from the first step on.
    """

    max_skip: int = 4
    sharpness: float = 4.0

    def __post_init__(self) -> None:
        if self.max_skip < 1 or self.sharpness < 0:
            raise ValueError(
                f"rates need a max_skip of at least 1 and a sharpness of at least 0, got {self.max_skip} and "
                f"{self.sharpness:g}; max_skip=1 keeps every frame"
            )

    def kept(self, num_frames: int) -> int:
        """How many frames are kept of ``num_frames``, whatever the skip. Raises ValueError where it is
        one."""
        kept = (num_frames - 1) // self.max_skip + 1
        if kept < 2:
            raise ValueError(
                f"rates.max_skip={self.max_skip} leaves one frame of {num_frames}; set "
                f"data.window.num_frames={15 * self.max_skip + 1} for clips of 16, or a lower "
                "method.rates.max_skip"
            )
        return kept

    def skips(self, draws: Draws, device: torch.device) -> Tensor:
        """Int64 b in 1..``max_skip``."""
        uniform = draws.uniform("frame_rate", device)
        up = 1 + self.sharpness * draws.progress
        down = 1 + self.sharpness * (1 - draws.progress)
        share = (1 - (1 - uniform) ** (1 / down)) ** (1 / up)
        return 1 + (share * self.max_skip).long().clamp(max=self.max_skip - 1)

    def cut(self, clips: Tensor, skips: Tensor) -> Tensor:
        """``clips`` b f ..., each at its own skip from its first frame on."""
        numbers = torch.arange(self.kept(clips.shape[1]), device=clips.device)
        at = skips.to(clips.device)[:, None] * numbers  # b f
        return torch.stack([clip[frames] for clip, frames in zip(clips, at, strict=True)])
