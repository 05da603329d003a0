"""A first convolution that reads more than x: what the forward context holds beside it (Brooks et al. 2023,
section 3.2).

A convolution of [x, c] is the sum of one of x and one of c. So the guest is not widened: the second one is
inserted, zero at birth, and leaves without trace. Published files hold both in one tensor.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from vgen.backbones.conditioning import ForwardContext
from vgen.backbones.sites import Site
from vgen.layers.insertion import Inserted, LayerSpec
from vgen.shapes import fold
from vgen.spec import spec


class ZeroConvolution(Inserted):
    """Adds a convolution, without bias, of the context's ``concat`` of the name ``reading``.

    Where the context has nothing of that name it adds nothing.
    """

    def __init__(self, reading: str, channels: int, like: nn.Conv2d, context: ForwardContext) -> None:
        super().__init__(context)
        self.reading = reading
        sizes: dict[str, Any] = {"kernel_size": like.kernel_size, "stride": like.stride}
        self.conv = nn.Conv2d(
            channels, like.out_channels, padding=cast(Any, like.padding), bias=False, **sizes
        )
        nn.init.zeros_(self.conv.weight)

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        beside = self.context.conditioning.concat.get(self.reading)
        return x if beside is None else x + self.conv(fold(beside))

    def silent_outputs(self) -> list[nn.Parameter]:
        return list(self.conv.parameters())


@spec
class Widened(LayerSpec):
    """``reading`` names what is read; it has ``channels``, 0 meaning as many as the convolution's own
    input, and ``extra`` ones."""

    reading: str = "image"
    channels: int = 0
    extra: int = 0

    def __post_init__(self) -> None:
        if self.channels < 0 or self.extra < 0:
            raise ValueError(
                f"a widened convolution reads 1 channel or more, got {self.channels}; 0 means as many as x"
            )

    def build(self, site: Site, module: nn.Module, context: ForwardContext) -> ZeroConvolution:
        if not isinstance(module, nn.Conv2d):
            raise ValueError(
                f"{site.path} is a {type(module).__name__}, and a convolution alone can be widened; name "
                "sites of kind conv_in or conv"
            )
        channels = (self.channels or module.in_channels) + self.extra
        return ZeroConvolution(self.reading, channels, module, context)
