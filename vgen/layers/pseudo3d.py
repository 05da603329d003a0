"""A convolution over frames behind one of pixels (Singer et al. 2022, Make-A-Video, section 3.2.1)."""

from __future__ import annotations

from torch import Tensor, nn

from vgen.backbones.conditioning import ForwardContext
from vgen.backbones.silent import Draw
from vgen.backbones.sites import Site
from vgen.layers.insertion import Inserted, LayerSpec
from vgen.spec import spec


class PseudoConv(Inserted):
    """Convolves ``(b f) c h w`` over frames at every pixel; frames outside the clip are zero.

    A new one is the identity: its kernel is Dirac's. A still stays as it is.
    """

    def __init__(self, channels: int, kernel: int, context: ForwardContext) -> None:
        super().__init__(context)
        self.conv = nn.Conv1d(channels, channels, kernel, padding=kernel // 2)
        weight, bias = self.silent_outputs()
        nn.init.dirac_(weight)
        nn.init.zeros_(bias)

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        frames = self.context.frames()
        if frames == 1:
            return x + 0 * sum(p.sum() for p in self.parameters())  # data-parallel training waits for them
        height, width = x.shape[-2:]
        lines = x.unflatten(0, (-1, frames)).permute(0, 3, 4, 2, 1).flatten(0, 2)  # (b h w) c f
        out = self.conv(lines).unflatten(0, (-1, height, width))  # b h w c f
        return out.permute(0, 4, 3, 1, 2).flatten(0, 1)

    def silent_outputs(self) -> list[nn.Parameter]:
        """Weight and bias."""
        return list(self.conv.parameters())

    def perturb(self, draw: Draw) -> None:
        """Less than other layers, since every output of the net goes through dozens of these."""
        super().perturb(lambda like: draw(like) / like[0].numel() ** 0.5)


@spec
class PseudoConvSpec(LayerSpec):
    """``kernel``: frames that one output sees, an odd number."""

    kernel: int = 3

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(
                f"a convolution over frames has an odd kernel of at least 1, got {self.kernel}; the usual "
                "one is 3"
            )

    def build(self, site: Site, module: nn.Module, context: ForwardContext) -> PseudoConv:
        """Raises ValueError at a site that is no convolution."""
        if not isinstance(module, nn.Conv2d):
            raise ValueError(
                f"{site.path} is a {type(module).__name__}, and a convolution over frames stands behind "
                "one of "
                "pixels; name sites of kind conv, conv_in or conv_out"
            )
        return PseudoConv(site.channels, self.kernel, context)
