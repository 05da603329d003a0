"""Prompt-Free Diffusion: a picture in the text's place, by a SeeCoder that alone learns (Xu et al. 2023).

The image model, a ControlNet and motion modules stay as they are and are told the picture's tokens instead of
words: ``vgen generate adapter=RUN reference=picture.png``, with ``stack.motion.file`` or ``stack.edges.file``
beside it. Code of its training was never released: the objective is that of every training here, and what
share of the clips sees no picture is a guess. Neither dropout nor the jitter of places acts in training.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from vgen.backbones.image_model import ImageModel
from vgen.backbones.see_coder import SeeCoder, SeeCoderSpec, see_coder
from vgen.conditions.image_tokens import ImageTokens
from vgen.diffusion.guidance import TEXT, Drop
from vgen.formats.foreign import Foreign
from vgen.formats.see_coder import SeeCoderFile
from vgen.methods._recipe import Conditioned, Paper, Recipe, Regime, method
from vgen.methods._sampling import Sampling
from vgen.spec import field, spec


@method(
    "prompt_free",
    paper=Paper(
        "Prompt-Free Diffusion: Taking 'Text' out of Text-to-Image Diffusion Models", "2305.16223", 2023
    ),
    regime=Regime.CORPUS,
)
@spec
class PromptFree(Recipe):
    """``encoder`` has the released sizes; ``drop`` is the share of the clips that see no picture."""

    leads: ClassVar[bool] = False
    formats: ClassVar[tuple[Foreign, ...]] = (SeeCoderFile(TEXT),)
    encoder: SeeCoderSpec = field(default_factory=SeeCoderSpec)
    drop: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.drop <= 1:
            raise ValueError(
                f"drop is the share of the clips that see no picture, in 0..1, got {self.drop:g}; .1 is usual"
            )

    def conditions(self) -> dict[str, Conditioned]:
        return {TEXT: Conditioned(ImageTokens(), module=partial(_module, self))}

    def dropout(self) -> list[Drop]:
        return [Drop(self.drop, frozenset({TEXT}))] if self.drop else []

    def learns(self) -> tuple[str, ...]:
        return (f"{TEXT}.*",)

    def sampling(self) -> Sampling:
        return Sampling(num_frames=1, num_steps=50, guidance=2.0)


def _module(recipe: PromptFree, model: ImageModel) -> SeeCoder:
    return see_coder(model.unet, recipe.encoder)
