"""The text and image encoders, trained to agree (CLIP, Radford et al. 2021), with one hard negative caption per picture.

Differs from the paper in the fixed temperature and in the hard negative, which teaches which fact belongs to which thing.
"""
from __future__ import annotations

from vgen.backbones.image_model import ImageModel
from vgen.methods._objectives import Agreement
from vgen.methods._recipe import Paper, Recipe, Regime, method
from vgen.spec import spec


@method(
    "clip_pair", paper=Paper("Learning Transferable Visual Models From Natural Language Supervision", "2103.00020", 2021),
    regime=Regime.IMAGE,
)
@spec
class ClipPair(Recipe):
    """``scale`` multiplies cosines (the inverse temperature)."""

    scale: float = 20.0

    def objective(self, model: ImageModel) -> Agreement:
        return Agreement(scale=self.scale)

    def learns(self) -> tuple[str, ...]:
        return ("text_encoder.*", "image_encoder.*")
