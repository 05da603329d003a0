"""Structure that a clip keeps while it is edited: a ControlNet and what it is shown."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from vgen.attention.control import Control
from vgen.attention.keys import FrameKeys
from vgen.attention.moment import Moment
from vgen.attention.processor import control_of, install
from vgen.backbones.control_net import ControlNetModel, Residuals, picture_factor, refuse_misfit, residuals
from vgen.backbones.image_model import Context
from vgen.backbones.video_unet import FrameCount, VideoUNet


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """``net`` is diffusers', ``pictures`` 1 f 3 H W in [0, 1] what it is shown (edges, depth, poses), one per
    frame. ``keys`` say which frames its self-attentions read, as for the UNet; none: each its own."""

    net: ControlNetModel
    pictures: Tensor
    scale: float = 1.0
    keys: tuple[FrameKeys, ...] = ()

    def __post_init__(self) -> None:
        if self.pictures.ndim != 5 or len(self.pictures) != 1 or self.pictures.shape[2] != 3:
            raise ValueError(
                f"control pictures must be 1 f 3 H W in [0, 1], got shape {tuple(self.pictures.shape)}"
            )
        if not math.isfinite(self.scale) or self.scale < 0:
            raise ValueError(f"the ControlNet's scale must be 0 or more, got {self.scale}; 1 is as trained")
        install(self.net, FrameCount()).keys = self.keys

    @property
    def control(self) -> Control:
        """What the ControlNet's attentions share; its sites are addressed as the UNet's are."""
        return control_of(self.net)

    def check(self, unet: VideoUNet, noise: Tensor) -> None:
        """Raise ValueError where net or pictures do not go with the clip ``noise`` 1 f c h w."""
        refuse_misfit(self.net, unet.image_unet)
        _, num_frames, _, h, w = noise.shape
        given, factor = tuple(self.pictures.shape[i] for i in (1, 3, 4)), picture_factor(self.net)
        if given != (num_frames, factor * h, factor * w):
            raise ValueError(
                f"control pictures must be one per frame of the clip, {num_frames} of {factor * h} x "
                f"{factor * w} px for this ControlNet, "
                f"got {given[0]} of {given[1]} x {given[2]}"
            )

    def frame(self, i: int) -> Structure:
        return replace(self, pictures=self.pictures[:, i : i + 1])

    def residuals(self, x: Tensor, t: Tensor, context: Context, moment: Moment) -> Residuals:
        """For rows ``x`` b f c h w of the frames that ``moment`` sees."""
        frames = moment.frames or range(x.shape[1])
        self.control.enter(moment)
        self.control.frames.value = len(frames)
        return residuals(self.net, x, t, context, self.pictures[:, frames.start : frames.stop], self.scale)
