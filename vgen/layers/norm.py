"""GroupNorm statistics per frame or pooled over the clip.

A knob of the recipe, since no checkpoint stores it (AnimateDiff v1 and Tune-A-Video's descendants pool).
"""

from __future__ import annotations

from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from vgen.backbones.conditioning import ForwardContext
from vgen.backbones.video_unet import Sidecar
from vgen.spec import Choice


class NormScope(Choice):
    """``clip`` means the residual blocks' norms and the last one: a spatial transformer's norm runs per frame
    in every published system."""

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


def pool_image_norms(sidecar: Sidecar) -> None:
    """Give the GroupNorms of the residual blocks of a UNet or ControlNet, and a UNet's last one, clip-wide
    statistics."""
    net, scope = sidecar.guest, ClipStatistics(sidecar.context)
    blocks = [path for path, module in net.named_modules() if isinstance(module, ResnetBlock2D)]
    inside = [f"{block}.{norm}" for block in blocks for norm in ("norm1", "norm2")]
    last = ["conv_norm_out"] if hasattr(net, "conv_norm_out") else []
    for path in [*inside, *last]:
        if isinstance(net.get_submodule(path), nn.GroupNorm):
            sidecar.around(path, scope)
