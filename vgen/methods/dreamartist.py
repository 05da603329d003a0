"""DreamArtist: a subject or style learnt as two words from one picture, one that is said and one that is not
(Dong et al. 2022).

The positive word stands in the prompt, the negative one in the negative prompt, and the loss is on the guided
prediction, so that both learn. Nothing else does. The negative row says the caption with the negative word in
the word's place. The words lie beneath any video method as stack.NAME.file. Left out are the reconstruction
of pixels, the attention mask and the discriminator, which are off by default in the released code.
DreamArtist++ (HCP-Diffusion, 2023) lets low-rank layers learn beside the words, some in the positive branch
alone, some in the negative one.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from vgen.backbones.image_model import ImageModel
from vgen.backbones.pseudo_words import PseudoWords, born, refuse_known
from vgen.backbones.sites import Kind, Where
from vgen.conditions.words import NEGATIVE, POSITIVE, Words
from vgen.diffusion.guidance import TEXT, Cfg, check_scale
from vgen.formats.embeddings import A1111, DiffusersEmbedding
from vgen.formats.foreign import Foreign
from vgen.layers.branch_lora import BranchLowRankSpec
from vgen.methods._objectives import Denoising
from vgen.methods._recipe import Conditioned, Insertion, Paper, Recipe, Regime, Training, method
from vgen.methods._sampling import Sampling
from vgen.spec import field, spec

KEYS_VALUES_AND_FEED_FORWARD = ["*.to_[kv]", "*.ff.net.0.proj", "*.ff.net.2"]


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


@method("dreamartist_plus_plus", paper=DreamArtist.paper, regime=Regime.CORPUS)
@spec
class DreamArtistPlusPlus(DreamArtist):
    """``positive`` and ``negative`` are the low-rank layers of each branch on keys, values and feed-forward
    of the UNet. They learn at ``positive_rate`` and ``negative_rate`` times the rate of the words: 1e-4 and
    4e-5 where that is 2.5e-3."""

    formats: ClassVar[tuple[Foreign, ...]] = ()
    positive: BranchLowRankSpec = field(default_factory=lambda: BranchLowRankSpec(branch=POSITIVE))
    negative: BranchLowRankSpec = field(default_factory=lambda: BranchLowRankSpec(branch=NEGATIVE))
    positive_rate: float = 0.04
    negative_rate: float = 0.016

    def insertions(self) -> list[Insertion]:
        where = Where(kinds=[Kind.LINEAR], paths=KEYS_VALUES_AND_FEED_FORWARD)
        return [Insertion(where, layer, name=layer.branch) for layer in (self.positive, self.negative)]

    def learns(self) -> tuple[str, ...]:
        return ("text.*", *self.lr_factors())

    def lr_factors(self) -> dict[str, float]:
        own = {self.positive.branch: self.positive_rate, self.negative.branch: self.negative_rate}
        return {f"unet.inserted.*@{branch}.*": rate for branch, rate in own.items()}

    def training(self) -> Training:
        return Training(lr=2.5e-3, weight_decay=1e-2, ema_decay=0.0, max_steps=1000)


def _module(recipe: DreamArtist, model: ImageModel) -> PseudoWords:
    if model.text_encoders:
        refuse_known(model.tokenizer, (recipe.words.word, recipe.words.negative_word))
    return born(model, recipe.init, recipe.num_positive, recipe.num_negative)
