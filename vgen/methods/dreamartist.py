"""DreamArtist: a subject or style learnt as two words from one picture, one that is said and one that is not
(Dong et al. 2022).

The positive word stands in the prompt, the negative one in the negative prompt, and the loss is on the guided
prediction, so that both learn. Nothing else does. The negative row says the caption with the negative word in
the word's place. The words lie beneath any video method as stack.NAME.file. Left out are the reconstruction
of pixels, the attention mask and the discriminator, which are off by default in the released code.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from vgen.backbones.image_model import ImageModel
from vgen.backbones.pseudo_words import PseudoWords, born, refuse_known
from vgen.conditions.words import Words
from vgen.diffusion.guidance import TEXT, Cfg, check_scale
from vgen.formats.embeddings import A1111, DiffusersEmbedding
from vgen.formats.foreign import Foreign
from vgen.methods._objectives import Denoising
from vgen.methods._recipe import Conditioned, Paper, Recipe, Regime, Training, method
from vgen.methods._sampling import Sampling
from vgen.spec import field, spec


@method(
    "dreamartist",
    paper=Paper(
        "DreamArtist: Towards Controllable One-Shot Text-to-Image Generation via Positive-Negative "
        "Prompt-Tuning",
        "2211.11337",
        2022,
    ),
    regime=Regime.CORPUS,
)
@spec
class DreamArtist(Recipe):
    """``words`` names both; they have ``num_positive`` and ``num_negative`` vectors and begin as the tokens
    of ``init``. ``training_guidance`` is the scale of the guided prediction that is trained; at 1 the
    negative word would learn nothing."""

    leads: ClassVar[bool] = False
    formats: ClassVar[tuple[Foreign, ...]] = (DiffusersEmbedding(), A1111())
    words: Words = field(default_factory=Words)
    num_positive: int = 3
    num_negative: int = 6
    init: str = "*"
    training_guidance: float = 3.0

    def __post_init__(self) -> None:
        check_scale(self.training_guidance)
        if self.training_guidance == 1:
            raise ValueError(
                "training_guidance=1 asks for the positive word alone, and the negative one would learn "
                "nothing; the usual value is 3"
            )
        if min(self.num_positive, self.num_negative) < 1:
            raise ValueError(
                f"a word has 1 vector or more, got num_positive={self.num_positive} and "
                f"num_negative={self.num_negative}; the usual values are 3 and 6"
            )

    def conditions(self) -> dict[str, Conditioned]:
        return {TEXT: Conditioned(self.words, module=partial(_module, self))}

    def objective(self, model: ImageModel) -> Denoising:
        return Denoising(guidance=Cfg(scale=self.training_guidance))

    def learns(self) -> tuple[str, ...]:
        return ("text.*",)

    def training(self) -> Training:
        return Training(lr=3e-3, weight_decay=1e-2, ema_decay=0.0, max_steps=1000)

    def sampling(self) -> Sampling:
        return Sampling(num_frames=1, num_steps=50, guidance=5.0)


def _module(recipe: DreamArtist, model: ImageModel) -> PseudoWords:
    if model.text_encoders:
        refuse_known(model.tokenizer, (recipe.words.word, recipe.words.negative_word))
    return born(model, recipe.init, recipe.num_positive, recipe.num_negative)
