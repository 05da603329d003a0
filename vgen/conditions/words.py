"""Text in which words stand that were learnt from pictures."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vgen.backbones.conditioning import Conditioning
from vgen.backbones.image_model import Context, ImageModel
from vgen.backbones.pseudo_words import PseudoWords, spoken
from vgen.conditions.condition import Condition, Encoded, Fields
from vgen.conditions.text import Text
from vgen.diffusion.moment import Moment
from vgen.spec import spec

POSITIVE, NEGATIVE = "positive", "negative"
"""Names of the weights that say which branch a row is: the one that hears the words, and the other."""


@spec
class Words(Condition):
    """Owns the cross-attention in the text's place; ``word`` and ``negative_word`` stand for the vectors of
    its module.

    A row that drops it hears the field ``negative``; where there is none, or an empty one, the caption with
    the negative word in the word's place. Layers that are heard in one branch are told by the weights
    ``positive`` and ``negative``, of which each row has one.
    """

    word: str = "<subject>"
    negative_word: str = "<subject-neg>"

    def __post_init__(self) -> None:
        for word in (self.word, self.negative_word):
            if not word or any(letter.isspace() for letter in word):
                raise ValueError(f"a placeholder is one word without spaces, as <subject>, got {word!r}")
        if self.word == self.negative_word:
            raise ValueError(f"word and negative_word are both {self.word}; give them names of their own")

    def reads(self) -> tuple[str, ...]:
        return ("caption",)

    def stands_for(self, other: Condition) -> bool:
        """It says everything that plain text says."""
        return isinstance(other, Text)

    def encode(self, model: ImageModel, module: nn.Module | None, fields: Fields) -> Encoded:
        assert isinstance(module, PseudoWords)  # the wiring's
        words = {self.word: module.positive, self.negative_word: module.negative}
        captions = list(fields["caption"])
        given = list(fields.get("negative") or [""] * len(captions))
        negatives = [own or self.opposite(text) for own, text in zip(given, captions, strict=True)]
        said, unsaid = (spoken(model, prompts, words) for prompts in (captions, negatives))
        ones = torch.ones(len(captions), device=said.device)
        return Encoded(
            clip={"text": said, POSITIVE: ones}, null={"text": unsaid, POSITIVE: torch.zeros_like(ones)}
        )

    def opposite(self, caption: str) -> str:
        """The caption with the negative word in the word's place; the empty prompt where it has none."""
        return caption.replace(self.word, self.negative_word) if self.word in caption else ""

    def conditioning(
        self,
        module: nn.Module | None,
        encoded: Encoded,
        x: Tensor,
        t: Tensor,
        moment: Moment | None,
        so_far: Conditioning,
    ) -> Conditioning:
        heard = encoded.clip[POSITIVE]
        weights = {POSITIVE: heard, NEGATIVE: 1 - heard}
        return Conditioning(crossattn=Context(encoded.clip["text"]), weights=weights)
