"""Captions that differ from a given one in nothing but words, or in a single fact: what teaches a text
encoder which facts there are."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vgen.toybox.captions import ADVERBS, DIRECTIONS, OTHERS, SIZES, caption, with_articles
from vgen.toybox.scenes import SOLIDS, Colour, Scene, Shape

_GROUPS: dict[str, tuple[tuple[str, ...], ...]] = {
    "colour": tuple((c.value,) for c in Colour),
    "shape": tuple((s.value,) for s in Shape),
    "size": tuple(SIZES.values()),
    "speed": tuple(ADVERBS.values()),
    "direction": tuple(tuple(sorted(words, key=len, reverse=True)) for words in DIRECTIONS.values()),
    "motion": tuple((finite,) for finite, _ in OTHERS.values()),
    "moving": tuple((gerund,) for _, gerund in OTHERS.values()),
    "ground": tuple((g.value,) for g in SOLIDS),
}
KINDS = tuple(_GROUPS)
"""Kinds of fact that a distractor may change. ``left of`` is where a thing stands, no way that it goes."""
_PATTERNS = {
    kind: re.compile(
        r"\b("
        + "|".join(sorted((re.escape(w) for words in group for w in words), key=len, reverse=True))
        + r")\b(?! of\b)"
    )
    for kind, group in _GROUPS.items()
}


def distractors(text: str, key: tuple[str, int], num: int) -> dict[str, str]:
    """Up to ``num`` captions by kind of fact, each ``text`` with two like facts exchanged (a colour of one
    thing for that of the other) or one replaced; a pure function of its arguments."""
    rng = _rng(f"{text}/{key}")
    out: dict[str, str] = {}
    for i in rng.permutation(len(KINDS)):
        found = list(_PATTERNS[KINDS[i]].finditer(text)) if len(out) < num else []
        if found:
            out[KINDS[i]] = _replace(
                text, found, _changed(_GROUPS[KINDS[i]], [match.group(1) for match in found], rng)
            )
    return out


def paraphrase(metadata: Mapping[str, Any], key: tuple[str, int]) -> str:
    """Another caption of the scene that a sample's metadata hold. Raises ValueError where they hold none."""
    if "scene" not in metadata:
        raise ValueError(
            f"sample {key[0]!r} carries no scene, so it can't be put in other words; prepare the corpus "
            "with vgen prepare data=toybox"
        )
    return caption(Scene.from_dict(metadata["scene"]), _rng(f"paraphrase/{key}")).text


def _rng(text: str) -> np.random.Generator:
    return np.random.default_rng(
        int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    )


def _changed(group: tuple[tuple[str, ...], ...], words: list[str], rng: np.random.Generator) -> list[str]:
    def class_of(word: str) -> int:
        return next(j for j, forms in enumerate(group) if word in forms)

    if len(words) == 2 and class_of(words[0]) != class_of(words[1]) and rng.random() < 0.5:
        return words[::-1]
    at = int(rng.integers(len(words)))
    others = [forms for forms in group if words[at] not in forms]
    other = others[rng.integers(len(others))]
    return [*words[:at], other[rng.integers(len(other))], *words[at + 1 :]]


def _replace(text: str, found: list[re.Match], words: list[str]) -> str:
    out, end = "", 0
    for match, word in zip(found, words, strict=True):
        out, end = out + text[end : match.start()] + word, match.end()
    return with_articles(out + text[end:])
