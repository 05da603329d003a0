"""AnimateDiff's domain adapter: low-rank layers on the image UNet's attention, learnt from single frames of
the clips (Guo et al. 2023, section 4.1).

It takes on what is peculiar to the frames of the corpus (blur, compression, watermarks), so that the motion
module above it need not. For drawing it is scaled down or left out. The rank is that of the published file,
128.
"""

from __future__ import annotations

from typing import ClassVar

from vgen.diffusion.guidance import Drop
from vgen.formats.foreign import Foreign
from vgen.formats.low_rank_files import AdapterFile, LowRankFolder
from vgen.layers.lora import LowRankSpec
from vgen.methods._low_rank import Target, stills
from vgen.methods._objectives import check_training_draws
from vgen.methods._recipe import Insertion, Recipe, Regime, Training, method
from vgen.methods._sampling import Sampling
from vgen.methods.animatediff import AnimateDiff
from vgen.spec import field, spec


@method("domain_adapter", paper=AnimateDiff.paper, regime=Regime.CORPUS)
@spec
class DomainAdapter(Recipe):
    """Every frame of a clip is a still."""

    leads: ClassVar[bool] = False
    formats: ClassVar[tuple[Foreign, ...]] = (AdapterFile(temporal=False), LowRankFolder(layer_knob=True))
    layer: LowRankSpec = field(default_factory=lambda: LowRankSpec(rank=128))
    text_drop: float = 0.1

    def __post_init__(self) -> None:
        check_training_draws(self.text_drop, 1.0)

    def insertions(self) -> list[Insertion]:
        return [Target(layer=self.layer).insertion()]

    def dropout(self) -> list[Drop]:
        return stills(self.text_drop)

    def sampling(self) -> Sampling:
        return AnimateDiff().sampling()

    def training(self) -> Training:
        return Training(lr=1e-4, weight_decay=1e-2)

    def learns(self) -> tuple[str, ...]:
        return (Target().learns(),)
