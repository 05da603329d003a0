"""GroupNorm statistics per frame or pooled over the clip.

A knob of the recipe, since no checkpoint stores it (Tune-A-Video's descendants pool).
"""

from __future__ import annotations

from torch import Tensor, nn

from vgen.backbones.conditioning import ForwardContext
from vgen.backbones.video_unet import VideoUNet
from vgen.spec import Choice


class NormScope(Choice):
    FRAME = "frame"
    CLIP = "clip"


class ClipStatistics:
    """Makes a GroupNorm of ``(b f) c ...`` pool its statistics over ``f`` by showing it ``b c (f ...)``."""

    def __init__(self, context: ForwardContext) -> None:
        self.context = context

    def before(self, _norm: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (
            args[0].unflatten(0, (-1, self.context.frames())).transpose(1, 2),
        )  # b c f h w: GroupNorm normalises over all trailing axes

    def after(self, _norm: nn.Module, _args: tuple, out: Tensor) -> Tensor:
        return out.transpose(1, 2).flatten(0, 1)


def pool_image_norms(video_unet: VideoUNet) -> None:
    """Give every GroupNorm of the image UNet clip-wide statistics."""
    scope = ClipStatistics(video_unet.context)
    for path, module in video_unet.image_unet.named_modules():
        if isinstance(module, nn.GroupNorm):
            video_unet.around(path, scope)
