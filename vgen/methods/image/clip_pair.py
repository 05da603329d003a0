"""The image encoder, trained to agree with a text encoder that stays as it is (CLIP, Radford et al. 2021;
locked text as in LiT, Zhai et al. 2022).

Differs from CLIP in the fixed temperature, in the locked half (the UNet was trained on it) and in captions
wrong in one fact among the candidates.
"""

from __future__ import annotations

from vgen.backbones.image_model import ImageModel
from vgen.methods._recipe import Paper, Recipe, Regime, method
from vgen.methods.image._objectives import Agreement
from vgen.spec import spec
from vgen.toybox.contrast import KINDS


@method(
    "clip_pair",
    paper=Paper("Learning Transferable Visual Models From Natural Language Supervision", "2103.00020", 2021),
    regime=Regime.IMAGE,
)
@spec
class ClipPair(Recipe):
    """``scale`` multiplies cosines (the inverse temperature)."""

    scale: float = 20.0

    def objective(self, model: ImageModel) -> Agreement:
        return Agreement(scale=self.scale, between_texts=False, kinds=KINDS)

    def learns(self) -> tuple[str, ...]:
        return ("image_encoder.*",)
