"""Feature maps of a net beside the UNet, added to it resolution by resolution (T2I-Adapter, Mou et al. 2023,
section 3.3)."""

from __future__ import annotations

from torch import Tensor, nn

from vgen.backbones.conditioning import ForwardContext
from vgen.backbones.sites import Site
from vgen.layers.insertion import Inserted, LayerSpec
from vgen.spec import spec


class AddFeature(Inserted):
    """Adds the map of its site's level to ``(b f) c h w``, and nothing where the clips have none.

    It holds no parameters.
    """

    def __init__(self, feature: str, level: int, context: ForwardContext) -> None:
        super().__init__(context)
        self.feature = feature
        self.level = level

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        maps = self.context.conditioning.features.get(self.feature)
        if maps is None:
            return x
        return x + maps[self.level].to(x)

    def silent_outputs(self) -> list[nn.Parameter]:
        return []


@spec
class AddFeatureSpec(LayerSpec):
    """``feature`` is the name of the maps in what the net is given."""

    feature: str = "pose"

    def build(self, site: Site, module: nn.Module, context: ForwardContext) -> AddFeature:
        return AddFeature(self.feature, site.level, context)
