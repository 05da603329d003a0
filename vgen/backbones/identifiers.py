"""Identifiers: words of a vocabulary that mean next to nothing, so that they may come to mean a subject (Ruiz
et al. 2022, section 3.2)."""

from __future__ import annotations

from vgen.backbones.image_model import ImageModel

COMMON_SHARE = 0.5
"""A tokenizer of byte pairs has the pairs that were met most often first: what stands in this share of its
vocabulary is common."""


def refuse_common(model: ImageModel, identifier: str) -> None:
    """Raises ValueError for an identifier that is one common word, or that the text encoder cannot say.
    Shapes without text encoders refuse nothing."""
    if not (identifier and model.text_encoders):
        return
    vocabulary = model.tokenizer.get_vocab()
    if not model.tokenizer(identifier, add_special_tokens=False).input_ids:
        raise ValueError(f"identifier={identifier!r} is nothing to the text encoder; give letters, as sks")
    place = vocabulary.get(f"{identifier.lower()}</w>")
    if place is not None and place < COMMON_SHARE * len(vocabulary):
        raise ValueError(
            f"identifier={identifier} is a word that the text encoder knows well (token {place:,} of "
            f"{len(vocabulary):,}, the commonest first), whose meaning would have to be unlearnt; give a "
            "rare one, as sks"
        )


def refuse_two_encoders(model: ImageModel) -> None:
    """Raises ValueError where a whole text encoder is to learn and there are two."""
    if len(model.text_encoders) > 1:
        raise ValueError(
            f"text_encoder=true lets one text encoder learn, and image model {model.source} has "
            f"{len(model.text_encoders)}; let low-rank layers learn in both, by method.targets"
        )
