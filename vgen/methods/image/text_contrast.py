"""The text encoder, trained to tell captions apart: one scene in two wordings, against captions wrong in one
fact (SimCSE, Gao et al. 2021).

Every kind of fact has its own wrong captions, so that a shape or a direction is as loud in the hidden states
as a colour: a UNet learns a loud fact in hundreds of steps and a faint one not at all.
"""

from __future__ import annotations

from vgen.backbones.image_model import ImageModel
from vgen.methods._recipe import Paper, Recipe, Regime, method
from vgen.methods.image._objectives import Agreement
from vgen.spec import spec
from vgen.toybox.contrast import KINDS


@method(
    "text_contrast",
    paper=Paper("SimCSE: Simple Contrastive Learning of Sentence Embeddings", "2104.08821", 2021),
    regime=Regime.IMAGE,
)
@spec
class TextContrast(Recipe):
    """``scale`` multiplies cosines: the inverse of the paper's temperature .05."""

    scale: float = 20.0

    def objective(self, model: ImageModel) -> Agreement:
        return Agreement(scale=self.scale, between_texts=True, kinds=KINDS)

    def learns(self) -> tuple[str, ...]:
        return ("text_encoder.*",)
