"""MotionLoRA: low-rank layers on the temporal attention of a frozen motion module, for one camera motion (Guo
et al. 2023, section 4.3).

Learnt from a few dozen clips that move alike; several add up. The rank is that of the published files, 64;
they were made for AnimateDiff v2. Needs a motion module beneath.
"""

from __future__ import annotations

from typing import ClassVar

from vgen.backbones.sites import INSERTED
from vgen.diffusion.guidance import Drop
from vgen.formats.foreign import Foreign
from vgen.formats.low_rank_files import AdapterFile, LowRankFolder
from vgen.layers.lora import LowRankSpec
from vgen.methods._low_rank import Target
from vgen.methods._objectives import check_training_draws, share_of_text
from vgen.methods._recipe import UNET, Insertion, Recipe, Regime, Training, method
from vgen.methods._sampling import Sampling
from vgen.methods.animatediff import AnimateDiff
from vgen.spec import field, spec

TEMPORAL = ["*.attention_blocks.*.to_[qkv]", "*.attention_blocks.*.to_out.0"]


@method("motion_lora", paper=AnimateDiff.paper, regime=Regime.CORPUS)
@spec
class MotionLora(Recipe):
    """The noise schedule is that of the motion module beneath."""

    leads: ClassVar[bool] = False
    formats: ClassVar[tuple[Foreign, ...]] = (
        AdapterFile(temporal=True),
        LowRankFolder(layer_knob=True, temporal=True),
    )
    layer: LowRankSpec = field(default_factory=lambda: LowRankSpec(rank=64))
    text_drop: float = 0.1

    def __post_init__(self) -> None:
        check_training_draws(self.text_drop, 1.0)

    def stands_on(self) -> AnimateDiff:
        return AnimateDiff(mid_block=True)

    def insertions(self) -> list[Insertion]:
        return [self._target().insertion()]

    def _target(self) -> Target:
        return Target(into=f"{UNET}.{INSERTED}", paths=TEMPORAL, layer=self.layer)

    def dropout(self) -> list[Drop]:
        return share_of_text(self.text_drop)

    def sampling(self) -> Sampling:
        return self.stands_on().sampling()

    def training(self) -> Training:
        return Training(lr=1e-4, weight_decay=1e-2, max_steps=2000)

    def learns(self) -> tuple[str, ...]:
        return (self._target().learns(),)
